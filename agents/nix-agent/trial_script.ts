/**
 * Runs one trial, apart from the agent: it goes on when the agent is restarted by the very switch, and takes the host
 * back when nobody confirms. Its directory holds `env` (what to do, written by the agent), and what it says: `self`
 * (its line of /proc), `phase`, `log`, `result`. The agent answers with `confirm` or `abort`.
 *
 * A shell, because it must not depend on anything that the switch may replace.
 */
export const trialScript = `#!/bin/sh
set -u
dir=$1
PATH="\${PATH:+$PATH:}/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin"
export PATH
. "$dir/env"

say() { printf '%s\\n' "$2" > "$dir/$1.new" && mv "$dir/$1.new" "$dir/$1"; }
cat "/proc/$$/stat" > "$dir/self.new" && mv "$dir/self.new" "$dir/self"

# The generation before, its boot default, and its services again.
go_back() {
  say phase rolling-back
  if [ "$PREVIOUS_GENERATION" -eq 0 ]; then say result "failed $1; there is no generation to go back to"; exit 1; fi
  nix_env --switch-generation "$PREVIOUS_GENERATION" >> "$dir/log" 2>&1 || { say result "failed $1; the profile does not go back"; exit 1; }
  switch_to "$PREVIOUS" switch >> "$dir/log" 2>&1 || { say result "failed $1; the generation before does not start"; exit 1; }
  say result "rolled-back $1"
  exit 1
}

try_health() {
  say phase verifying
  sleep "$GRACE"
  attempt=1
  while :; do
    health > "$dir/health" 2>&1
    code=$?
    [ "$code" -eq 0 ] && return 0
    [ -e "$dir/abort" ] && go_back "$(cat "$dir/abort")"
    [ "$attempt" -ge "$ATTEMPTS" ] && go_back "the health check failed $attempt times, at last with code $code: $(tail -n 3 "$dir/health" | tr '\\n' ' ')"
    attempt=$((attempt + 1))
    sleep "$INTERVAL"
  done
}

await_confirmation() {
  say phase healthy
  end=$(($(date +%s) + CONTACT))
  while [ ! -e "$dir/confirm" ]; do
    [ -e "$dir/abort" ] && go_back "$(cat "$dir/abort")"
    [ "$(date +%s)" -ge "$end" ] && go_back "nobody confirmed it within $CONTACT s: the agent or whom it reports to is out of reach"
    sleep 0.2
  done
  say result active
}

case "$MODE" in
  roll-back) go_back "$CAUSE" ;;
  verify) try_health; await_confirmation ;;
  trial)
    say phase activating
    switch_to "$TARGET" "$ACTION" >> "$dir/log" 2>&1
    code=$?
    [ "$code" -eq 0 ] || go_back "switch-to-configuration $ACTION ended with code $code: $(tail -n 3 "$dir/log" | tr '\\n' ' ')"
    if [ "$ACTION" = boot ]; then say result booting; exit 0; fi
    try_health
    await_confirmation
    ;;
esac
`;
