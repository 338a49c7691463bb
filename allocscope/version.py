"""The version, as code: importlib.metadata would cost every quick start several milliseconds."""

VERSION = "0.1.0"
