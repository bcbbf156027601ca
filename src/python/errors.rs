//! Errors of the crate as the exceptions of `gdb_leak.errors`.

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::Error;

/// The class in `gdb_leak.errors` that says what the error says.
fn class(error: &Error) -> &'static str {
    match error {
        Error::Range { .. } => "RangeError",
        Error::NoRegion { .. } => "NoRegionError",
        Error::NotSaved { .. } => "NotSavedError",
        Error::Unreadable { .. } => "UnreadableError",
        Error::File { .. } | Error::Line { .. } => "FileError",
        Error::Process { .. } => "ProcessError",
        Error::Needle { .. } => "NeedleError",
        Error::Request { .. } | Error::Interrupted => "RequestError",
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Interrupted) {
            return PyKeyboardInterrupt::new_err(());
        }
        Python::attach(|py| {
            let found = py.import("gdb_leak.errors").and_then(|errors| errors.getattr(class(&error)));
            match found.and_then(|class| class.cast_into::<PyType>().map_err(Self::from)) {
                Ok(class) => Self::from_type(class, (error.to_string(), error.address())),
                Err(broken) => broken,
            }
        })
    }
}
