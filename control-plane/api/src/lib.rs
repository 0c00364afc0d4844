//! Request and response types of Turnpike's REST API
