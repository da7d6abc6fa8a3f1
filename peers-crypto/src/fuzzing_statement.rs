//! The body of the fuzz target of statements and groups.

use crate::{Group, Statement};

/// What decodes is the one encoding of what it says; a user is the same whatever the order of its statements, and hears nothing new from itself.
pub fn crypto_statement(data: &[u8]) {
    if let Ok(statement) = Statement::decode(data) {
        assert_eq!(statement.encode(), data);
        assert_eq!(Statement::decode(&statement.encode()), Ok(statement));
    }
    if let Ok(mut user) = Group::decode(data) {
        assert_eq!(user.encode(), data);
        let mut statements: Vec<_> = user.statements().cloned().collect();
        statements.reverse();
        assert_eq!(Group::from_statements(statements).expect("a user").encode(), data);
        assert_eq!(user.merge_encoded(data), Ok(0));
        assert_eq!(user.encode(), data);
    }
}
