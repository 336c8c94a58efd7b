import { systemClock } from "@ultracloud/base";

/** Why tests against a real server cannot run here; undefined: they can. */
export const noServer: string | undefined = await (async () => {
  try {
    const { success } = await new Deno.Command("ovsdb-server", { args: ["--version"], stdout: "null", stderr: "null" })
      .output();
    return success ? undefined : "ovsdb-server does not run";
  } catch {
    return "no ovsdb-server: install openvswitch-switch";
  }
})();

const schema = {
  name: "Test",
  version: "1.0.0",
  tables: {
    Parent: {
      isRoot: true,
      columns: {
        name: { type: "string" },
        size: { type: "integer" },
        on: { type: "boolean" },
        note: { type: { key: "string", min: 0, max: 1 } },
        tags: { type: { key: "string", min: 0, max: "unlimited" } },
        options: { type: { key: "string", value: "string", min: 0, max: "unlimited" } },
        children: { type: { key: { type: "uuid", refTable: "Child" }, min: 0, max: "unlimited" } },
      },
      indexes: [["name"]],
    },
    Child: { columns: { label: { type: "string" }, levels: { type: { key: "integer", min: 0, max: 4 } } } },
  },
};

/** Every column of the test schema. */
export const testTables = {
  Parent: Object.keys(schema.tables.Parent.columns),
  Child: Object.keys(schema.tables.Child.columns),
};

export interface TestServer extends AsyncDisposable {
  readonly socket: string;
  start(): Promise<void>;
  /** SIGKILL, as a crash would. */
  kill(): Promise<void>;
  signal(signal: Deno.Signal): void;
}

/**
 * A real ovsdb-server with the test schema in a temporary directory, started. Only a clustered database, here of one
 * member, keeps the history that `monitor_cond_since` goes on from.
 */
export async function startServer(
  kind: "standalone" | "clustered" = "standalone",
  more: readonly string[] = [],
): Promise<TestServer> {
  const dir = await Deno.makeTempDir({ prefix: "uc-ovsdb-" });
  await Deno.writeTextFile(`${dir}/schema`, JSON.stringify(schema));
  const args = kind === "standalone"
    ? ["create", `${dir}/db`, `${dir}/schema`]
    : ["create-cluster", `${dir}/db`, `${dir}/schema`, `unix:${dir}/raft.sock`];
  const made = await new Deno.Command("ovsdb-tool", { args }).output();
  if (!made.success) throw new Error(new TextDecoder().decode(made.stderr));
  const socket = `${dir}/db.sock`;
  let child: Deno.ChildProcess | undefined;
  const server: TestServer = {
    socket,
    async start() {
      child = new Deno.Command("ovsdb-server", {
        args: [`${dir}/db`, `--remote=punix:${socket}`, `--unixctl=${dir}/ctl`, "--log-file=/dev/null", ...more],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      for (const deadline = performance.now() + 20_000;;) {
        try {
          (await Deno.connect({ transport: "unix", path: socket })).close();
          return;
        } catch (error) {
          if (performance.now() > deadline) throw error;
          await systemClock.sleep(5);
        }
      }
    },
    async kill() {
      child?.kill("SIGKILL");
      await child?.status;
      child = undefined;
    },
    signal: (signal) => child?.kill(signal),
    async [Symbol.asyncDispose]() {
      await server.kill();
      await Deno.remove(dir, { recursive: true });
    },
  };
  await server.start();
  return server;
}
