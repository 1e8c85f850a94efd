//! Who is asking: from the `Authorization` header to a database role.

pub mod api_key;
