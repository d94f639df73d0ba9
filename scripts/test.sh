#!/usr/bin/env bash
# The whole suite: first what only computes, in two processes, then what runs against the clock, in two lanes of whole files. The tests
# run in processes that pytest-xdist starts: one that crashes, or hangs past the time limit, is one failed test with its name, and the
# next process goes on. (Not --dist loadfile: xdist 3.8 hangs when a process crashes under it. One process under `load` keeps the
# order; hence the lanes.) What floods a node wants the processors for itself and comes last.
# With arguments (files, -k ...): one pytest with these.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# = 0 ] || exec scripts/run -m pytest "$@"
scripts/run -m pytest test -m "not real_time" -n 2 --dist worksteal --timeout-method thread
computed=$?
in_real_time=(scripts/run -m pytest test -m real_time -n 1 --dist load --timeout-method thread)
alone=test/test_faults_flood.py
other=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null; rm -f "$other"' EXIT
"${in_real_time[@]}" --ignore "$alone" --lane 2/2 >"$other" 2>&1 &
"${in_real_time[@]}" --ignore "$alone" --lane 1/2
first=$?
wait $!
second=$?
cat "$other"
scripts/run -m pytest "$alone" -n 1 --timeout-method thread
flooded=$?
[ $computed = 0 ] && [ $first = 0 ] && [ $second = 0 ] && [ $flooded = 0 ] && echo "All parts of the suite have passed." && exit 0
echo "Failed: the part that computes ended with $computed, the two lanes in real time with $first and $second, the floods with $flooded." >&2
exit 1
