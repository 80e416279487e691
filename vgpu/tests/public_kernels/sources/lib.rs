//! Empty: this package only names what is to be downloaded.
