/**
 * Requests per second of a unary call through the whole chain, beside a bare `Deno.serve` in the same run:
 * `deno run -A lib/rpc/echo_bench.ts [rounds] [seconds]`. Needs wrk. Load and server share the machine, so only the
 * ratio travels between machines.
 */
import { fault, systemClock, systemRng } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { OperationService } from "@ultracloud/proto/common/v1";
import { type Authenticator, type Authorizer, bind, type Principal, startRpcServer } from "./mod.ts";

const connections = 64;
const target = 40_000;
const path = "/ultracloud.common.v1.OperationService/GetOperation";
const body = '{"project":"acme/prod","id":"op_1"}';
// As long as a real EdDSA token.
const token = `Bearer ${"t".repeat(420)}`;

async function serveBare(): Promise<void> {
  const answer = new TextEncoder().encode('{"id":"op_1","kind":"vm.create","progressPercent":50}');
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: ({ port }) => console.log(port) },
    async (request) => {
      await request.bytes();
      return new Response(answer, { headers: { "content-type": "application/json" } });
    },
  );
  await server.finished;
}

async function serveRpc(): Promise<void> {
  const cache = new Map<string, { principal: Principal; expiresMs: number }>([
    [token, { principal: { kind: "user", id: "user:usr_1" }, expiresMs: Infinity }],
  ]);
  const authenticator: Authenticator = {
    authenticate(header) {
      const found = cache.get(header.get("authorization") ?? "");
      if (found !== undefined && found.expiresMs > systemClock.nowMs()) return found.principal;
      throw fault("unauthenticated", "token_invalid", "Cannot use the token");
    },
  };
  const bindings = new Set(["user:usr_1 benchsvc.operation.get acme/prod"]);
  const authorizer: Authorizer = {
    authorize: (principal, permission, scope) =>
      bindings.has(`${principal.id} ${permission} ${scope}`)
        ? { allow: true }
        : { allow: false, visible: true, reason: "no binding" },
  };
  const scope = (request: { project: string }) => request.project;
  const unused = () => {
    throw fault("unimplemented", "unused", "Cannot call this in a bench");
  };
  const service = bind(OperationService, {
    getOperation: (request) => ({ id: request.id, kind: "vm.create", progressPercent: 50 }),
    listOperations: unused,
    waitOperation: unused,
    cancelOperation: unused,
  }, {
    getOperation: { resource: "operation", action: "get", scope },
    listOperations: { resource: "operation", action: "list", scope },
    waitOperation: { resource: "operation", action: "get", scope },
    cancelOperation: { resource: "operation", action: "cancel", scope },
  });
  const server = await startRpcServer({ name: "bench-svc", version: "0", listen: "127.0.0.1:0" }, {
    services: [service],
    authenticator,
    authorizer,
    registry: new Registry(),
    health: new Health(),
    log: noopLogger,
    clock: systemClock,
    rng: systemRng,
  });
  console.log(server.address.split(":")[1]);
  await new Promise(() => {});
}

/** Starts this file again as a server and answers its port. */
async function startServer(kind: string): Promise<{ port: number; child: Deno.ChildProcess }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", new URL(import.meta.url).pathname, kind],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return { port: Number(value?.trim()), child };
}

async function load(port: number, seconds: number, script: string): Promise<number> {
  const { stdout, success } = await new Deno.Command("wrk", {
    args: ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", script, `http://127.0.0.1:${port}${path}`],
    stderr: "inherit",
  }).output();
  const text = new TextDecoder().decode(stdout);
  const rate = /Requests\/sec:\s+([\d.]+)/.exec(text)?.[1];
  if (!success || rate === undefined) throw new Error(`Cannot measure: wrk said ${text}`);
  if (/Non-2xx/.test(text)) throw new Error(`Cannot count failures as answers: ${text}`);
  return Number(rate);
}

/** CPU seconds a process has used so far; unlike requests per second they do not depend on its neighbours. */
async function cpuSeconds(pid: number): Promise<number> {
  const fields = (await Deno.readTextFile(`/proc/${pid}/stat`)).split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

async function main(): Promise<void> {
  const rounds = Number(Deno.args[0] ?? 3);
  const seconds = Number(Deno.args[1] ?? 4);
  try {
    await new Deno.Command("wrk", { args: ["-v"], stdout: "null", stderr: "null" }).output();
  } catch {
    console.error("Cannot measure without wrk: install it with `apt-get install wrk`");
    Deno.exit(2);
  }
  const script = await Deno.makeTempFile({ suffix: ".lua" });
  await Deno.writeTextFile(
    script,
    `wrk.method = "POST"\nwrk.body = '${body}'\nwrk.headers["content-type"] = "application/json"\n` +
      `wrk.headers["authorization"] = "${token}"\n`,
  );
  const bare = await startServer("bare");
  const rpc = await startServer("rpc");
  try {
    const rates = { bare: [] as number[], rpc: [] as number[] };
    for (const server of [bare, rpc]) await load(server.port, 1, script);
    const cpu = { bare: 0, rpc: 0 };
    const cost = async (kind: "bare" | "rpc", server: typeof bare) => {
      const before = await cpuSeconds(server.child.pid);
      const rate = await load(server.port, seconds, script);
      rates[kind].push(rate);
      cpu[kind] += (await cpuSeconds(server.child.pid) - before) / (rate * seconds) / rounds;
    };
    for (let round = 1; round <= rounds; round++) {
      await cost("bare", bare);
      await cost("rpc", rpc);
      console.log(
        `round ${round}: bare ${rates.bare.at(-1)!.toFixed(0)} req/s, rpc ${rates.rpc.at(-1)!.toFixed(0)} req/s`,
      );
    }
    const [b, r] = [median(rates.bare), median(rates.rpc)];
    console.log(
      `median of ${rounds}: bare ${b.toFixed(0)} req/s, rpc ${r.toFixed(0)} req/s, ratio ${(r / b).toFixed(2)}`,
    );
    console.log(`server CPU per request: bare ${(cpu.bare * 1e6).toFixed(1)} us, rpc ${(cpu.rpc * 1e6).toFixed(1)} us`);
    console.log(`target ${target} req/s on two cores: ${r >= target ? "met" : "missed"}`);
    if (r < target) Deno.exitCode = 1;
  } finally {
    for (const { child } of [bare, rpc]) {
      child.kill("SIGKILL");
      await child.status;
    }
    await Deno.remove(script);
  }
}

const kind = Deno.args[0];
if (kind === "bare") await serveBare();
else if (kind === "rpc") await serveRpc();
else await main();
