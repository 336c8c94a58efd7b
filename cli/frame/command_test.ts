import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import { buildApplication, run } from "@stricli/core";
import { fault, type FaultKind, invalidField } from "@ultracloud/base";
import { RemoteFault } from "@ultracloud/rpc";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { command, parseDuration, parseInteger, parseTimeout, reportFailure } from "./command.ts";
import { exitCodeOf, exitCodes } from "./exit_codes.ts";
import { hintFor } from "./hints.ts";
import type { Io } from "./io.ts";

/** A terminal that remembers; `answers` are typed by the person. */
export function memoryIo(o: { env?: Record<string, string>; answers?: string[]; signal?: AbortSignal } = {}) {
  const seen = { out: "", err: "", asked: [] as string[] };
  const io: Io = {
    out: (text) => void (seen.out += text),
    err: (text) => void (seen.err += text),
    interactive: o.answers !== undefined,
    env: (name) => o.env?.[name],
    ask(question) {
      seen.asked.push(question);
      return o.answers?.shift();
    },
    signal: o.signal ?? new AbortController().signal,
  };
  return { io, seen };
}

/** Runs a command as `uc` does and answers its exit code and what it printed. */
async function runCommand(
  built: ReturnType<typeof command>,
  words: readonly string[],
  o: Parameters<typeof memoryIo>[0] = {},
) {
  const { io, seen } = memoryIo({ ...o, env: { UC_CONFIG: "/nonexistent/uc.json", ...o.env } });
  const sink = { write: (_: string) => {} };
  const process = { stdout: sink, stderr: sink, exitCode: undefined as number | undefined };
  await run(
    buildApplication(built, { name: "uc", scanner: { caseStyle: "allow-kebab-for-camel" } }),
    words,
    { io, process } as never,
  );
  return { ...seen, code: process.exitCode };
}

Deno.test("every kind of failure has its exit code", () => {
  const expected: Record<FaultKind, number> = {
    invalid_argument: 2,
    out_of_range: 2,
    not_found: 3,
    unauthenticated: 4,
    permission_denied: 4,
    already_exists: 5,
    failed_precondition: 5,
    aborted: 5,
    resource_exhausted: 6,
    deadline_exceeded: 7,
    unavailable: 8,
    cancelled: 130,
    unimplemented: 1,
    data_loss: 1,
    internal: 1,
  };
  for (const [kind, code] of Object.entries(expected)) assert.equal(exitCodeOf(kind as FaultKind), code, kind);
});

Deno.test("a failure is printed as code and message, hint, field and request id", () => {
  const { io, seen } = memoryIo();
  const failure = new RemoteFault("invalid_argument", "invalid_cidr", "Cannot use 10.0.0.0/99", {
    field: "cidr",
    retryAfterMs: 1_500,
  }, "req-7");
  assert.equal(reportFailure(io, failure), exitCodes.usage);
  assert.equal(
    seen.err,
    "error[invalid_cidr]: Cannot use 10.0.0.0/99\nhint: try again in 2 s\nfield: cidr\nrequest id: req-7\n",
  );
  assert.equal(seen.out, "", "standard output is for results");
});

Deno.test("a failure of ours has no request id, and a wire error becomes a typed one", () => {
  const own = memoryIo();
  assert.equal(reportFailure(own.io, invalidField("label", "Cannot read it", "invalid_label")), 2);
  assert.equal(own.seen.err, "error[invalid_label]: Cannot read it\nfield: label\n");
  const wire = memoryIo();
  assert.equal(reportFailure(wire.io, new ConnectError("Cannot reach it", Code.Unavailable)), exitCodes.unavailable);
  assert.match(wire.seen.err, /^error\[unavailable\]: Cannot reach it\nhint: `uc status`/);
});

Deno.test("what a server says cannot steer the terminal", () => {
  const { io, seen } = memoryIo();
  reportFailure(
    io,
    new RemoteFault("not_found", "x", "Cannot find \u001b[2J\nnext", { field: "a\u009bb" }, "\u001b]0;"),
  );
  assert.equal(
    seen.err,
    "error[x]: Cannot find \\x1b[2J\nnext\nfield: a\\x9bb\nrequest id: \\x1b]0;\n",
  );
});

Deno.test("a stack trace is shown on --debug only", () => {
  const [quiet, loud] = [memoryIo(), memoryIo()];
  const error = new Error("boom", { cause: new Error("the cause") });
  assert.equal(reportFailure(quiet.io, error), exitCodes.failed);
  assert.equal(quiet.seen.err, "error[internal]: boom\n");
  reportFailure(loud.io, error, true);
  assert.match(loud.seen.err, /command_test\.ts[^]*cause: Error: the cause/);
});

Deno.test("hints name the next command", () => {
  assert.match(hintFor(fault("unauthenticated", "not_logged_in", ""))!, /uc login/);
  assert.match(hintFor(fault("unauthenticated", "token_revoked", ""))!, /uc login/);
  assert.match(hintFor(fault("permission_denied", "permission_denied", ""))!, /uc whoami/);
  assert.match(hintFor(fault("aborted", "etag_mismatch", ""))!, /read it again/);
  assert.match(hintFor(fault("unavailable", "connect_failed", ""))!, /uc status/);
  assert.doesNotMatch(hintFor(fault("unavailable", "components_not_ready", ""))!, /uc status/, "it has just run");
  assert.match(hintFor(fault("resource_exhausted", "too_many", "", { retryAfterMs: 100 }))!, /1 s/);
  assert.equal(hintFor(fault("not_found", "vm_not_found", "")), undefined);
});

Deno.test("durations, timeouts and numbers are read or refused with what is wanted", () => {
  assert.deepEqual(["500ms", "30s", "2m", "1h", "90d", "5", "1.5s", "0"].map(parseDuration), [
    500,
    30_000,
    120_000,
    3_600_000,
    7_776_000_000,
    5_000,
    1_500,
    0,
  ]);
  for (const bad of ["", "-1s", "1w", "s", "1 s", "1e3", "Infinity", "0x10"]) {
    assert.throws(() => parseDuration(bad), /Cannot read .* as a duration: wanted/, bad);
  }
  assert.equal(parseTimeout("24h"), 86_400_000);
  for (const bad of ["0", "0ms", "25h", "99999999d"]) assert.throws(() => parseTimeout(bad), /at most 24h/, bad);
  assert.deepEqual(["0", "-80", "65536"].map(parseInteger), [0, -80, 65_536]);
  for (const bad of ["", "abc", "1.5", "1e3", "0x10", "99999999999999999999"]) {
    assert.throws(() => parseInteger(bad), /as a number/, bad);
  }
});

const removal = command<Record<never, never>, [string]>({
  brief: "Remove a network",
  args: [{ brief: "Network", placeholder: "network" }],
  async run({ session, confirm, io }, _flags, vpc) {
    confirm(`Delete ${vpc}?`);
    await session.client(VpcService, "prismnet").deleteVpc({ project: "acme/prod", vpc });
    io.err("deleted\n");
  },
});

Deno.test("--explain and --dry-run print the changing call and make none, without asking or logging in", async () => {
  for (const flag of ["--explain", "--dry-run"]) {
    const { code, out, err, asked } = await runCommand(removal, ["net", flag], { answers: [] });
    assert.equal(code, exitCodes.ok, err);
    assert.match(out, /^would call ultracloud\.prismnet\.v1\.VpcService\/DeleteVpc http:\/\/127\.0\.0\.1:7130\n/);
    assert.match(out, /"vpc":"net"/);
    assert.deepEqual([err, asked], ["", []]);
  }
});

Deno.test("what cannot be undone is asked for: no means no, a script needs --yes", async () => {
  const refused = await runCommand(removal, ["net"], { answers: ["n"] });
  assert.deepEqual(refused.asked, ["Delete net? [y/N] "]);
  assert.equal(refused.code, exitCodes.interrupted);
  assert.match(refused.err, /^error\[not_confirmed\]: Nothing was changed/);
  const ended = await runCommand(removal, ["net"], { answers: [] });
  assert.equal(ended.code, exitCodes.interrupted, "end of input is no");
  const script = await runCommand(removal, ["net"]);
  assert.equal(script.code, exitCodes.usage);
  assert.match(script.err, /error\[needs_confirmation\][^]*--yes/);
  const sure = await runCommand(removal, ["net", "--yes"]);
  assert.match(sure.err, /^error\[not_logged_in\]/, "it went on to the call");
  assert.equal(sure.code, exitCodes.denied);
});

Deno.test("an interrupted command ends with 130", async () => {
  const waiting = command({ brief: "Wait", run: () => Promise.reject(new Error("aborted")) });
  const { code } = await runCommand(waiting, [], { signal: AbortSignal.abort() });
  assert.equal(code, exitCodes.interrupted);
});

Deno.test("an empty list says so on standard error and is valid JSON on standard output", async () => {
  const empty = command({
    brief: "List",
    async run({ list }) {
      await list(VpcService.method.listVpcs.output.field.vpcs!.message!, [], []);
    },
  });
  const table = await runCommand(empty, []);
  assert.deepEqual([table.out, table.err, table.code], ["", "Nothing found.\n", 0]);
  assert.equal((await runCommand(empty, ["-o", "json"])).out, "[]\n");
});
