import { systemClock } from "@ultracloud/base";
import { noopLogger, Registry } from "@ultracloud/observe";
import type { Host } from "../domain/argv.ts";
import { HostUser } from "../host_user.ts";
import { WorkerLease } from "../lease.ts";
import { qemuVersion } from "../probe.ts";
import { Vms, type VmsOptions } from "../vms.ts";
import { restlessGuest } from "./restless_guest.ts";
import { type TinyImage, tinyImage, until } from "./tiny_image.ts";

export const image: TinyImage | undefined = await tinyImage();
const version = image ? await qemuVersion() : { major: 0, minor: 0 };
/** What the workers of tests run guests on. */
export const host: Host = { accelerator: "tcg", qemuMajor: version.major, qemuMinor: version.minor };

export interface Worker {
  readonly vms: Vms;
  readonly lease: WorkerLease;
  readonly dir: string;
  /** Lets go of everything that runs and opens the worker anew, as after the death of its agent. */
  reopen(): Promise<Worker>;
}

export interface Workers {
  readonly dir: string;
  open(name: string, options?: Pick<VmsOptions, "migration">): Promise<Worker>;
}

/** A test with workers of its own in this process; whatever becomes of it, nothing of it stays behind. */
export function withWorkers(name: string, body: (workers: Workers) => Promise<void>): void {
  Deno.test({
    name,
    ignore: image === undefined,
    async fn() {
      const dir = await Deno.makeTempDir({ prefix: "uva" });
      const opened = new Map<string, Vms>();
      const pids = new Set<number>();
      const note = () => {
        for (const vms of opened.values()) for (const vm of vms.list()) if (vm.pid > 0) pids.add(vm.pid);
      };
      const open: Workers["open"] = async (worker, options = {}) => {
        note();
        await opened.get(worker)?.[Symbol.asyncDispose]();
        const home = `${dir}/${worker}`;
        await Deno.mkdir(`${home}/state`, { recursive: true });
        const lease = new WorkerLease({ stateDir: `${home}/state` }, { clock: systemClock });
        await lease.restore();
        const vms = new Vms({
          stateDir: `${home}/state`,
          runDir: `${home}/run`,
          host,
          consoleBytesMax: 64 * 1024,
          imageCacheBytesMax: 2 ** 30,
          tickMs: 100,
          ...options,
        }, {
          clock: systemClock,
          log: noopLogger,
          registry: new Registry(),
          user: new HostUser({ uidFirst: undefined }),
          lease,
          readImage: (sha256, offset) => chunks(contentOf(sha256).subarray(offset)),
          signal: new AbortController().signal,
        });
        opened.set(worker, vms);
        await vms.open();
        return { vms, lease, dir: home, reopen: () => open(worker, options) };
      };
      try {
        await body({ dir, open });
      } finally {
        note();
        for (const vms of opened.values()) {
          for (const vm of vms.list()) await vms.remove(vm.vmId).catch(() => {});
          for (const volume of await vms.volumes.list()) {
            await vms.volumes.unexport(volume.volumeId, 0).catch(() => {});
          }
          await vms[Symbol.asyncDispose]();
        }
        killLeftovers(dir, [...opened.keys()]);
        // This process is the parent: until it has waited for them, they count as its open children.
        await until("every QEMU to be waited for", 20_000, () => Promise.resolve(![...pids].some(alive)));
        await systemClock.sleep(0);
        await Deno.remove(dir, { recursive: true });
      }
    },
  });
}

function contentOf(sha256: string): Uint8Array {
  return [image!, restlessGuest].find(({ ref }) => ref.sha256 === sha256)!.bytes;
}

async function* chunks(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 1 << 20) yield await Promise.resolve(bytes.subarray(at, at + (1 << 20)));
}

/** A failing test must not leave its guests behind. */
function killLeftovers(dir: string, workers: readonly string[]): void {
  for (const worker of workers) {
    for (const slot of Deno.readDirSync(`${dir}/${worker}/run`)) {
      for (const file of ["qemu.pid", "qsd.pid"]) {
        try {
          Deno.kill(Number.parseInt(Deno.readTextFileSync(`${dir}/${worker}/run/${slot.name}/${file}`), 10), "SIGKILL");
        } catch {
          // It has ended.
        }
      }
    }
  }
}

/** False for what has ended and was waited for. */
export function alive(pid: number): boolean {
  try {
    Deno.statSync(`/proc/${pid}`);
    return true;
  } catch {
    return false;
  }
}
