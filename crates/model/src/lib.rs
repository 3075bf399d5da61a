//! AWS shapes: typed structs, const schema tables and operation tables, generated from pinned service models.
//!
//! Owns what a shape *is*; how it looks on the wire belongs to `ekstra-wire`. Pure, and without dependencies.
//! Invariant: everything below `generated` is the output of `cargo xtask codegen` and is never edited by hand;
//! a test of `xtask` compares the two.

mod generated;
mod schema;
mod shape;
mod value;

pub use generated::*;
pub use schema::{
    ErrorSchema, Fault, ListSchema, Location, MapSchema, MemberSchema, Operation, Protocol, Service,
    StringSchema, StructSchema, TimeFormat, TypeSchema,
};
pub use shape::{Field, OperationShape, Shape, ShapeError, Unit};
pub use value::{Timestamp, Value};
