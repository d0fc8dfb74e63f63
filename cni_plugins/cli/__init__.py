"""The edge of cnictl: what operators type, and what they read. Decisions about networks are other rooms'."""
