import type { Fault } from "@ultracloud/base";

const byCode: Readonly<Record<string, string>> = {
  not_logged_in: "run `uc login`, or set UC_TOKEN",
  no_project: "`uc project list` shows the projects, `uc context set --project org/name` keeps one",
  context_not_found: "`uc context list` shows the contexts",
  no_operator_key: "choose the context of a quickstart or of an installed cluster: `uc context use NAME`",
  needs_confirmation: "add --yes when a script means it",
  connect_failed:
    "`uc status` shows which component answers; where there is no cloud yet, `uc quickstart --keep` starts one",
  components_not_ready: "the log of a component tells why; `uc context list` shows the clusters you may have meant",
  contexts_unreadable: "UC_CONFIG names another file",
  sql_read_only: "add --write when the statement is to change something",
  token_expired: "run `uc login` again",
};

/** What to do next; undefined when the message says it all. */
export function hintFor(failure: Fault): string | undefined {
  const known = byCode[failure.code];
  if (known) return known;
  if (failure.kind === "unavailable") {
    return "`uc status` shows which component answers; `uc doctor` what the host lacks";
  }
  if (failure.kind === "permission_denied") return "`uc whoami` shows who calls and with which roles";
  if (failure.kind === "unauthenticated") return "run `uc login`, or set UC_TOKEN";
  if (failure.kind === "aborted") return "somebody changed it meanwhile: read it again and repeat";
  if (failure.detail.retryAfterMs) return `try again in ${Math.ceil(failure.detail.retryAfterMs / 1000)} s`;
  return undefined;
}
