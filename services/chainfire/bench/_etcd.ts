import { fault, systemClock } from "@ultracloud/base";
import { freePort } from "@ultracloud/launch";
import type { Target } from "./_load.ts";

interface Member {
  readonly client: number;
  readonly args: readonly string[];
  process?: Deno.ChildProcess;
}

/** Members of etcd on loopback, for comparison: data on the same file system, fsync on as it always is. */
export class Etcd implements AsyncDisposable {
  readonly #dir: string;
  readonly #members: readonly Member[];

  private constructor(dir: string, members: readonly Member[]) {
    this.#dir = dir;
    this.#members = members;
  }

  /** Starts so many members and waits until they serve. */
  static async start(size: number): Promise<Etcd> {
    const dir = await Deno.makeTempDir({ prefix: "etcd-" });
    const ports = Array.from({ length: size }, () => ({ client: freePort(), peer: freePort() }));
    const initial = ports.map(({ peer }, i) => `m${i}=http://127.0.0.1:${peer}`).join(",");
    const members = ports.map(({ client, peer }, i): Member => ({
      client,
      args: [
        `--name=m${i}`,
        `--data-dir=${dir}/m${i}`,
        `--listen-client-urls=http://127.0.0.1:${client}`,
        `--advertise-client-urls=http://127.0.0.1:${client}`,
        `--listen-peer-urls=http://127.0.0.1:${peer}`,
        `--initial-advertise-peer-urls=http://127.0.0.1:${peer}`,
        `--initial-cluster=${initial}`,
        "--initial-cluster-state=new",
        "--quota-backend-bytes=8589934592",
        "--log-level=error",
        "--logger=zap",
      ],
    }));
    const etcd = new Etcd(dir, members);
    for (const i of members.keys()) etcd.#spawn(i);
    await etcd.ready();
    return etcd;
  }

  #spawn(i: number): void {
    const member = this.#members[i]!;
    member.process = new Deno.Command("etcd", { args: [...member.args], stdout: "null", stderr: "null" }).spawn();
  }

  /** Waits until a put succeeds; answers how long that took. */
  async ready(timeoutMs = 60_000): Promise<number> {
    const begin = performance.now();
    while (performance.now() - begin < timeoutMs) {
      for (const i of this.#members.keys()) {
        if (!this.#members[i]!.process) continue;
        const done = await this.put(i, "cmVhZHk=", "eQ==").catch(() => false);
        if (done) return performance.now() - begin;
      }
      await systemClock.sleep(5);
    }
    throw fault("deadline_exceeded", "etcd_not_ready", `etcd does not serve after ${timeoutMs} ms`);
  }

  /** One put at one member; false when it is refused. */
  async put(i: number, key: string, value: string): Promise<boolean> {
    const response = await fetch(`${this.target(i).url}/v3/kv/put`, {
      method: "POST",
      body: JSON.stringify({ key, value }),
      signal: AbortSignal.timeout(1_000),
    });
    await response.body?.cancel();
    return response.ok;
  }

  target(i: number): Target {
    return { url: `http://127.0.0.1:${this.#members[i]!.client}`, headers: {} };
  }

  get pids(): number[] {
    return this.#members.flatMap(({ process }) => process ? [process.pid] : []);
  }

  async kill(i: number): Promise<void> {
    const { process } = this.#members[i]!;
    process?.kill("SIGKILL");
    await process?.status;
    delete this.#members[i]!.process;
  }

  restart(i: number): void {
    this.#spawn(i);
  }

  /** The member that leads; -1 while none does. */
  async leader(): Promise<number> {
    const found = await Promise.all(this.#members.map(async ({ process }, i) => {
      if (!process) return undefined;
      try {
        const response = await fetch(`${this.target(i).url}/v3/maintenance/status`, { method: "POST", body: "{}" });
        const status = await response.json() as { leader: string; header: { member_id: string } };
        return { leads: status.leader === status.header.member_id };
      } catch {
        return undefined;
      }
    }));
    return found.findIndex((member) => member?.leads);
  }

  /** Calls of fdatasync on the log so far, as the member counts them. */
  async syncs(i: number): Promise<number> {
    const text = await (await fetch(`${this.target(i).url}/metrics`)).text();
    return Number(/^etcd_disk_wal_fsync_duration_seconds_count (\d+)/m.exec(text)?.[1] ?? NaN);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#members.keys().map((i) => this.kill(i)));
    await Deno.remove(this.#dir, { recursive: true });
  }
}
