import { systemClock } from "@ultracloud/base";
import { connectQmp, type QmpClient } from "@ultracloud/qmp";
import { until } from "./until.ts";

/** A migration of QEMU by itself, with the arguments that vm-agent gave a guest of its own. */

export interface BareMove {
  /** As QEMU counts both. */
  readonly downtimeMs: number;
  readonly totalMs: number;
}

/** What a QEMU needs to run again beside the one that it is taken from. */
export interface BareGuest {
  readonly args: readonly string[];
  /** Files that the arguments name, copied: the VM's own go away with it when it moves. */
  readonly vmDir: { readonly from: string; readonly copy: string };
  readonly marker: string;
}

/** Copies what the VM's directory holds, so that its arguments can be used wherever the VM is by then. */
export async function keepGuest(
  args: readonly string[],
  vmDir: string,
  copy: string,
  marker: string,
): Promise<BareGuest> {
  await Deno.mkdir(copy, { recursive: true });
  for await (const { name, isFile } of Deno.readDir(vmDir)) {
    if (isFile) await Deno.copyFile(`${vmDir}/${name}`, `${copy}/${name}`);
  }
  return { args, vmDir: { from: vmDir, copy }, marker };
}

/**
 * Two QEMUs, one waiting for the other, over a unix socket in `dir`; moves the guest once it is up. By itself QEMU sends
 * 128 MiB/s at most; `unlimited` takes that bound away, as vm-agent does.
 */
export async function migrateBare(
  guest: BareGuest,
  dir: string,
  o: { readonly unlimited: boolean },
): Promise<BareMove> {
  await Deno.mkdir(dir, { recursive: true });
  const socket = `${dir}/migrate.sock`;
  await using source = await BareQemu.start(guest, `${dir}/source`, []);
  await using target = await BareQemu.start(guest, `${dir}/target`, ["-incoming", `unix:${socket}`]);
  await source.until("the bare guest is up", async () => (await source.serial()).includes(guest.marker));
  await target.until("the bare target listens", async () => (await Deno.stat(socket)).isSocket === true);
  await using monitor = await source.monitor();
  if (o.unlimited) await monitor.execute("migrate-set-parameters", { "max-bandwidth": 2 ** 40 });
  await monitor.execute("migrate", { uri: `unix:${socket}` });
  let seen: { status?: string; downtime?: number; "total-time"?: number } = {};
  await source.until("the bare guest has moved", async () => {
    seen = await monitor.execute<typeof seen>("query-migrate");
    if (seen.status === "failed") throw new Error(`The bare migration failed: ${JSON.stringify(seen)}`);
    return seen.status === "completed";
  });
  return { downtimeMs: seen.downtime!, totalMs: seen["total-time"]! };
}

class BareQemu implements AsyncDisposable {
  readonly #dir: string;
  readonly #child: Deno.ChildProcess;
  readonly #words: Promise<string>;
  #ended: number | undefined;

  private constructor(dir: string, child: Deno.ChildProcess) {
    this.#dir = dir;
    this.#child = child;
    this.#words = new Response(child.stderr).text();
    child.status.then(({ code }) => this.#ended = code);
  }

  static async start(guest: BareGuest, dir: string, more: readonly string[]): Promise<BareQemu> {
    await Deno.mkdir(dir);
    const slotDir = /(\/[^ ,]*\/slot-\d\d)\//.exec(guest.args.join(" "))![1]!;
    const args = guest.args.slice(1).filter((arg) => arg !== "-S")
      .map((arg) => arg.replace(/logfile=[^,]*/, `logfile=${dir}/serial.log`))
      .map((arg) => arg.replaceAll(slotDir, dir).replaceAll(guest.vmDir.from, guest.vmDir.copy));
    await Deno.writeTextFile(`${dir}/serial.log`, "");
    const command = new Deno.Command(guest.args[0]!, {
      args: [...args, ...more],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    });
    return new BareQemu(dir, command.spawn());
  }

  serial(): Promise<string> {
    return Deno.readTextFile(`${this.#dir}/serial.log`);
  }

  monitor(): Promise<QmpClient> {
    return connectQmp({ path: `${this.#dir}/qmp.sock` }, { clock: systemClock });
  }

  /** Waits for the condition, or tells the last words of a QEMU that has ended. */
  async until(what: string, holds: () => Promise<boolean>): Promise<void> {
    await until(what, 60_000, async () => this.#ended !== undefined || await holds());
    if (this.#ended === undefined) return;
    throw new Error(`Waited until ${what}: QEMU ended with ${this.#ended}: ${(await this.#words).slice(0, 400)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#words;
  }
}
