module portunus.dev/tests/paths

go 1.26
