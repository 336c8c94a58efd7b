import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { fault, seededRng, systemClock, utf8 } from "@ultracloud/base";
import {
  type DesiredSystem,
  desiredSystemSchema,
  type DrainAnswer,
  type DrainRequest,
  drainRequestSchema,
  systemStates,
} from "@ultracloud/cluster-state";
import { Health, noopLogger } from "@ultracloud/observe";
import { type DesiredSchema, DesiredSchema as Schema, type ObservedSystem } from "@ultracloud/proto/deployer/v1";
import { type CacheServer, type NixBox, serveCache, type Workshop } from "@ultracloud/testing";
import { configSchema, type NixAgent, openNixAgent } from "./mod.ts";

/** Generous: other tests share the cores, and Nix starts many processes. */
const hangMsMax = 120_000;

export async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  for (const end = performance.now() + hangMsMax;;) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > end) throw new Error(`Waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export const healthy = { health: "#!/bin/sh\nexit 0\n" };
export const sick = { health: "#!/bin/sh\necho disk controller missing\nexit 3\n" };

/** Times that do not make a test wait. */
export const quick = {
  health_check_command: ["health"],
  health_check_grace_ms: 0,
  health_check_interval_ms: 50,
  health_check_attempts: 2,
  health_check_timeout_ms: 60_000,
  contact_timeout_ms: 60_000,
  free_bytes_min: 0,
};

let intents = 0;

/** One host in a directory: its root, its agent's state, and whoever tells it what to become. */
export class TestHost implements AsyncDisposable {
  readonly dir: string;
  readonly reports: string[] = [];
  #reported: ObservedSystem | undefined;
  /** False: the deployer takes no reports any more. */
  reachable = true;
  quarantine = "";
  /** Requests for a drain that the agent has made, oldest first; the last is taken back when `asking` is false. */
  readonly drains: DrainRequest[] = [];
  asking = false;
  /** What fleet-scheduler answers to a request; undefined: nothing. */
  answer: (request: DrainRequest) => Omit<DrainAnswer, "remaining"> | undefined = () => undefined;
  #wish: MessageInitShape<typeof DesiredSchema> = {};
  readonly #cache: { readonly url: string; readonly key: string };
  #running: { readonly stop: AbortController; readonly done: Promise<void>; readonly agent: NixAgent } | undefined;

  constructor(dir: string, cache: { readonly url: string; readonly key: string }) {
    this.dir = dir;
    this.#cache = cache;
  }

  static async make(parent: string, name: string, cache: { readonly url: string; readonly key: string }) {
    const host = new TestHost(`${parent}/${name}`, cache);
    for (const part of ["root/run", "state", "run"]) await Deno.mkdir(`${host.dir}/${part}`, { recursive: true });
    await host.boot("boot-1");
    return host;
  }

  /** The host starts: nothing of what ran before is there. */
  async boot(id: string): Promise<void> {
    await Deno.writeTextFile(`${this.dir}/boot_id`, `${id}\n`);
  }

  get root(): string {
    return `${this.dir}/root`;
  }

  get last(): ObservedSystem | undefined {
    return this.#reported;
  }

  wish(target: string, change: Partial<DesiredSystem> = {}, cacheUrl = this.#cache.url): string {
    const system = desiredSystemSchema.parse({ ...quick, ...change, target_system: target });
    const intentId = (++intents).toString(16).padStart(8, "0");
    this.#wish = {
      intentId,
      system: {
        targetSystem: system.target_system,
        activation: system.activation,
        preSwitchChecks: system.pre_switch_checks.map((argv) => ({ argv })),
        healthCheckCommand: { argv: system.health_check_command! },
        healthCheckGraceMs: BigInt(system.health_check_grace_ms),
        healthCheckTimeoutMs: BigInt(system.health_check_timeout_ms),
        healthCheckAttempts: system.health_check_attempts,
        healthCheckIntervalMs: BigInt(system.health_check_interval_ms),
        contactTimeoutMs: BigInt(system.contact_timeout_ms),
        freeBytesMin: BigInt(system.free_bytes_min),
        drain: system.drain,
        drainTimeoutMs: BigInt(system.drain_timeout_ms),
      },
      binaryCacheUrl: cacheUrl,
      trustedKeys: [this.#cache.key],
    };
    return intentId;
  }

  async start(change: Record<string, unknown> = {}): Promise<void> {
    const config = configSchema.parse({
      clusterId: "test",
      rpc: { listen: "127.0.0.1:0" },
      stateDir: `${this.dir}/state`,
      runDir: `${this.dir}/run`,
      identityKeyFile: "none",
      trustFile: "none",
      peers: { deployer: ["http://127.0.0.1:1"], chainfire: ["http://127.0.0.1:1"] },
      nodeName: "node01",
      root: this.root,
      launcher: "setsid",
      bootIdFile: `${this.dir}/boot_id`,
      rebootCommand: ["timeout", "1", "true"],
      pollMs: 200,
      retryMs: 200,
      ...change,
    });
    const absent = () => Promise.reject(fault("unavailable", "absent", "Cannot call: the test has none"));
    const deployer = {
      getDesired: () =>
        this.reachable
          ? Promise.resolve(create(Schema, { ...this.#wish, quarantineReason: this.quarantine }))
          : absent(),
      reportObserved: ({ observed }: { observed: ObservedSystem }) => {
        if (!this.reachable) return absent();
        this.#reported = observed;
        const word = systemStates[observed.state - 1]!;
        if (this.reports.at(-1) !== word) this.reports.push(word);
        return Promise.resolve({});
      },
    };
    const agent = await openNixAgent(config, {
      version: "test",
      deployer: deployer as never,
      chainfire: this.#chainfire() as never,
      clock: systemClock,
      rng: seededRng(++intents),
      log: noopLogger,
      health: new Health(),
    });
    const stop = new AbortController();
    this.#running = { stop, agent, done: agent.run(stop.signal) };
  }

  /** As much of chainfire as a drain needs: one request on one lease, and the scheduler's answer to it. */
  #chainfire() {
    return {
      leases: {
        leaseGrant: () => Promise.resolve({ id: 1n }),
        leaseKeepAlive: () => Promise.resolve({ ttlMs: 1n }),
        leaseRevoke: () => Promise.resolve(void (this.asking = false)),
      },
      kv: {
        put: ({ value, lease }: { value: Uint8Array; lease: bigint }) => {
          if (lease !== 1n) throw new Error("Cannot ask without a lease");
          this.drains.push(drainRequestSchema.parse(JSON.parse(utf8.decode(value))));
          this.asking = true;
          return Promise.resolve({});
        },
        range: () => {
          const answer = this.answer(this.drains.at(-1)!);
          return Promise.resolve({ kvs: answer ? [{ value: utf8.encode(JSON.stringify(answer)) }] : [] });
        },
      },
    };
  }

  /** Ends the agent alone; who carries its trial goes on. */
  async kill(): Promise<void> {
    this.#running?.stop.abort();
    await this.#running?.done.catch(() => {});
    this.#running = undefined;
  }

  /** Waits until the host reports the state for what it was wished. */
  async reached(state: string, intentId: string): Promise<ObservedSystem> {
    return await until(`${state}, after ${this.reports.join(" ")}: ${this.#reported?.reason}`, () => {
      const last = this.#reported;
      return Promise.resolve(last?.intentId === intentId && systemStates[last.state - 1] === state && last);
    });
  }

  /** Waits until the host gives such a reason. */
  async says(reason: RegExp, intentId: string): Promise<void> {
    const said = () => this.#reported?.intentId === intentId && reason.test(this.#reported.reason);
    await until(`${reason}`, () => Promise.resolve(said()));
  }

  /** Waits until the agent has given its drain back. */
  async released(): Promise<void> {
    await until("the end of the drain", () => Promise.resolve(!this.asking));
  }

  async activations(): Promise<string[]> {
    const text = await Deno.readTextFile(`${this.root}/run/activations`).catch(() => "");
    return text.split("\n").filter((line) => line !== "").map((line) => line.replace(/ \w{32}-/, " "));
  }

  async bootDefault(): Promise<string> {
    return (await Deno.readTextFile(`${this.root}/boot/default`).catch(() => "")).trim();
  }

  /** What the trial says of itself, once it does. */
  async trialPhase(phase: string): Promise<void> {
    const said = () => Deno.readTextFile(`${this.dir}/state/trial/phase`).catch(() => "");
    await until(`phase ${phase}`, async () => (await said()).trim() === phase);
  }

  /** Power goes: agent and trial at once, and the next boot begins. */
  async powerCut(nextBoot: string): Promise<void> {
    const self = await Deno.readTextFile(`${this.dir}/state/trial/self`);
    const pid = Number(self.split(" ")[0]);
    await this.kill();
    // With all that it started.
    await new Deno.Command("kill", { args: ["-9", "--", `-${pid}`] }).output();
    await this.boot(nextBoot);
  }

  /** Ends the agent and waits for a trial that still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    const self = await Deno.readTextFile(`${this.dir}/state/trial/self`).catch(() => "");
    const pid = Number(self.split(" ")[0]);
    if (pid > 0) await until("the end of the trial", () => Deno.stat(`/proc/${pid}`).then(() => false, () => true));
  }
}

/** A directory with a workshop, a signed cache over HTTP, and hosts. */
export interface NixWorld extends AsyncDisposable {
  readonly dir: string;
  readonly workshop: Workshop;
  readonly cache: CacheServer;
  readonly cacheDir: string;
  host(name: string): Promise<TestHost>;
  /** A built and published system. */
  system(name: string, bin?: Record<string, string>): Promise<string>;
}

export async function openNixWorld(box: NixBox): Promise<NixWorld> {
  const path = Deno.env.get("PATH") ?? "";
  if (!path.startsWith(box.binDir)) Deno.env.set("PATH", `${box.binDir}:${path}`);
  const dir = await Deno.makeTempDir({ prefix: "uc-nix-" });
  const workshop = await box.workshop(`${dir}/workshop`);
  const cacheDir = `${dir}/cache`;
  await Deno.mkdir(cacheDir);
  const cache = serveCache(cacheDir);
  const hosts: TestHost[] = [];
  return {
    dir,
    workshop,
    cache,
    cacheDir,
    async host(name) {
      const host = await TestHost.make(dir, name, { url: cache.url, key: workshop.publicKey });
      hosts.push(host);
      return host;
    },
    async system(name, bin = healthy) {
      const system = await workshop.build({ name, bin, library: name });
      await workshop.publish(system, cacheDir);
      return system;
    },
    async [Symbol.asyncDispose]() {
      for (const host of hosts) await host[Symbol.asyncDispose]();
      await cache[Symbol.asyncDispose]();
      // The store is read-only for its owner too.
      await new Deno.Command("rm", { args: ["-rf", dir] }).output();
    },
  };
}
