#!/bin/bash
# Stands in for tarn where addprocs starts a worker (its option `tarn`): the worker finds the fault proxy where process 1 would be. Its standard
# input, whose end is process 1's end, is passed on.
read -r _ secret
exec 3<&0
exec "$TARN_SPEC_TARN" "$@" < <(
  printf '%s %s\n' "$TARN_SPEC_PROXY" "$secret"
  exec cat <&3 2>/dev/null
) 3<&-
