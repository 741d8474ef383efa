"""The gRPC server: contract in, core, contract out; and the archive that it keeps and serves."""
