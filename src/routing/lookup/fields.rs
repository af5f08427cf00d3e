//! What sources say of a user, field by field, and what it means. The names are those of Dovecot's passdb and our own, so
//! that databases that exist serve unchanged.

use zeroize::Zeroizing;

/// What a source says of a user: names and values, in its order. Values may be secrets.
#[derive(Default)]
pub(super) struct Fields(pub(super) Vec<(String, Zeroizing<Vec<u8>>)>);
