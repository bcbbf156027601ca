//! Names as Python's texts: lone surrogates for bytes that are not UTF-8, in every locale.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::name::Name;

/// The bytes of a name.
///
/// An `OsString` becomes a text by the charset of the locale, in which the same bytes may be other
/// characters.
#[derive(Clone)]
pub(super) struct Text(Name);

impl From<Name> for Text {
    fn from(name: Name) -> Self {
        Self(name)
    }
}

impl<'py> IntoPyObject<'py> for Text {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        if let Ok(text) = std::str::from_utf8(self.0.bytes()) {
            return Ok(PyString::new(py, text));
        }
        let bytes = PyBytes::new(py, self.0.bytes());
        PyString::from_encoded_object(&bytes, Some(c"utf-8"), Some(c"surrogateescape"))
    }
}
