import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import {
  type ComponentProcess,
  freePort,
  prepareStack,
  spawnComponent,
  type Stack,
  waitReady,
} from "@ultracloud/launch";
import { BackupService, DatabaseService, KvService, SqlService, WebhookService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { workspaceRoot } from "@ultracloud/testing";
import { stringify } from "smol-toml";
import { Relays } from "./test_relays.ts";

/** Several real flaredb processes under their real permissions; disposing ends them and removes their data. */
export interface Members extends AsyncDisposable {
  readonly urls: readonly string[];
  readonly dir: string;
  /** Keys, trust and places of components beside the members; the test starts those. */
  readonly stack: Stack;
  /** What members reach each other through. */
  readonly relays: Relays;
  process(id: number): ComponentProcess;
  /** Starts a member that does not run and waits until it is ready. */
  start(id: number): Promise<void>;
  stateDir(id: number): string;
  clients(stack: DisposableStack, urls?: readonly string[]): Clients;
}

export type Clients = ReturnType<typeof makeClients>;

function makeClients(stack: DisposableStack, urls: readonly string[], authorization: () => Promise<string>) {
  const at = { endpoints: urls, authorization, timeoutMs: 5_000 };
  return {
    databases: stack.use(createRpcClient(DatabaseService, at)),
    kv: stack.use(createRpcClient(KvService, at)),
    sql: stack.use(createRpcClient(SqlService, at)),
    backups: stack.use(createRpcClient(BackupService, at)),
    hooks: stack.use(createRpcClient(WebhookService, at)),
  };
}

/** Starts `count` members; `stateDirs` puts the state of some elsewhere, `beside` prepares other components. */
export async function startMembers(
  count: number,
  options: { readonly stateDirs?: Readonly<Record<number, string>>; readonly beside?: readonly string[] } = {},
): Promise<Members> {
  const dir = await Deno.makeTempDir({ prefix: "uc-members-" });
  const ids = Array.from({ length: count }, (_, i) => i + 1);
  const peers = ids.map(() => `127.0.0.1:${freePort()}`), rpcs = ids.map(() => `127.0.0.1:${freePort()}`);
  const base = await prepareStack({
    root: workspaceRoot,
    dataDir: `${dir}/base`,
    components: ["flaredb", ...options.beside ?? []],
    ports: {
      "flaredb.rpc": 1,
      "flaredb.peer": 2,
      ...Object.fromEntries((options.beside ?? []).map((name) => [`${name}.rpc`, freePort()])),
    },
    clusterId: "test",
  });
  const { manifest, dir: source } = base.member("flaredb");
  const relays = new Relays();
  const edges = ids.map((from) => ids.map((to) => from === to ? peers[to - 1]! : relays.add(from, to, peers[to - 1]!)));
  const membersOf = (from: number) =>
    ids.map((id) => ({
      id,
      name: `node${id}`,
      peerUrl: `http://${edges[from - 1]![id - 1]}`,
      clientUrl: `http://${rpcs[id - 1]}`,
    }));
  const shared = base.placement("flaredb");
  const stateDir = (id: number) => options.stateDirs?.[id] ?? `${dir}/state${id}`;
  const processes = new Map<number, ComponentProcess>();
  const launch = async (id: number) => {
    const configDir = `${dir}/etc${id}`;
    await Deno.mkdir(configDir, { recursive: true });
    await Deno.mkdir(stateDir(id), { recursive: true });
    await Deno.copyFile(`${shared.configDir}/identity.key`, `${configDir}/identity.key`);
    await Deno.writeTextFile(
      `${configDir}/config.toml`,
      stringify({
        clusterId: "test",
        rpc: { listen: rpcs[id - 1] },
        stateDir: stateDir(id),
        runDir: `${dir}/run${id}`,
        identityKeyFile: `${configDir}/identity.key`,
        trustFile: shared.trustFile,
        memberId: id,
        members: membersOf(id),
        // Receivers of tests have no certificates.
        webhooks: { allowPlain: true },
        peer: { listen: peers[id - 1] },
      }),
    );
    await Deno.mkdir(`${dir}/run${id}`, { recursive: true });
    processes.set(
      id,
      spawnComponent({
        manifest,
        placement: {
          ...shared,
          configDir,
          stateDir: stateDir(id),
          runDir: `${dir}/run${id}`,
          listen: { rpc: rpcs[id - 1]!, peer: peers[id - 1]! },
          callees: { "flaredb.peer": edges[id - 1]! },
        },
        program: { kind: "source", root: workspaceRoot, entry: `${source}/${manifest.entry}` },
        logFile: `${dir}/node${id}.log`,
      }),
    );
  };
  const start = async (id: number) => {
    await launch(id);
    const process = processes.get(id)!;
    await waitReady(`http://${rpcs[id - 1]}`, { name: `flaredb ${id}`, timeoutMs: 120_000, process });
  };
  const end = async () => {
    await Promise.all([...processes.values()].map((process) => process.kill()));
    await relays[Symbol.asyncDispose]();
    await base[Symbol.asyncDispose]();
    await Deno.remove(dir, { recursive: true });
  };
  try {
    await Promise.all(ids.map(start));
  } catch (error) {
    await end();
    throw error;
  }
  const signer = await createWorkloadSigner({ clusterId: "test", name: "operator", keyFile: base.operatorKeyFile }, {
    clock: systemClock,
  });
  const urls = rpcs.map((rpc) => `http://${rpc}`);
  return {
    urls,
    dir,
    stack: base,
    relays,
    process: (id) => processes.get(id)!,
    start,
    stateDir,
    clients: (stack, of = urls) => makeClients(stack, of, signer.authorization("flaredb")),
    [Symbol.asyncDispose]: end,
  };
}
