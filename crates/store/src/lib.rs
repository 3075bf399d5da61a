//! rusqlite
