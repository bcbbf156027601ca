//! Output files that Python writes itself.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::save::{self, Place};

#[pyfunction]
pub(super) fn output_place(path: PathBuf) -> PyResult<(&'static str, Option<i32>)> {
    Ok(match save::writable(&path)? {
        Place::File(_) => ("file", None),
        Place::Stream => ("stream", None),
        Place::Descriptor(number) => ("descriptor", Some(number)),
    })
}

#[pyfunction]
pub(super) fn write_text(py: Python<'_>, path: PathBuf, text: &[u8]) -> PyResult<()> {
    py.detach(|| save::write_text(&path, text))?;
    Ok(())
}

#[pyfunction]
pub(super) fn remove_file(path: PathBuf) -> PyResult<()> {
    Ok(save::remove(&path)?)
}
