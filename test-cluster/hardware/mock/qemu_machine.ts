import { fault, systemClock } from "@ultracloud/base";
import { connectQmp, type QmpClient } from "@ultracloud/qmp";
import type { Machine } from "./machine.ts";

export interface QemuMachineOptions {
  /** Program and arguments of the machine, its disk with `bootindex=1`; without a drive for CDs and a monitor. */
  readonly argv: readonly string[];
  /** For the monitor's socket and what QEMU says; short, as a socket's path is. */
  readonly dir: string;
  /** The serial line, appended to over every start. */
  readonly serialFile: string;
}

/** Starts take seconds on a loaded machine; a monitor that is silent for longer belongs to no QEMU that works. */
const monitorTimeoutMs = 30_000;
const quitTimeoutMs = 10_000;
const medium = "uc-medium";
/** Before the disk's 1, and after it. */
const bootindex = { first: 0, last: 9 } as const;

/** A machine of QEMU: power is the process, the reset line and the virtual drive are its monitor's. */
export class QemuMachine implements Machine, AsyncDisposable {
  readonly #options: QemuMachineOptions;
  #running: { readonly child: Deno.ChildProcess; readonly monitor: QmpClient } | undefined;
  #medium: string | undefined;

  constructor(options: QemuMachineOptions) {
    this.#options = options;
  }

  get powered(): boolean {
    return this.#running !== undefined;
  }

  async on(fromMedia: boolean): Promise<void> {
    if (this.#running !== undefined) return;
    const { argv: [program, ...args], dir, serialFile } = this.#options;
    const socket = `${dir}/qmp.sock`;
    await Deno.remove(socket).catch(() => {});
    // Firmware reads the order of devices at a reset, so the first start gets it by argument.
    const order = fromMedia ? bootindex.first : bootindex.last;
    const child = new Deno.Command(program!, {
      args: [
        ...args,
        ...["-qmp", `unix:${socket},server=on,wait=off`, "-S"],
        ...["-chardev", `file,id=uc-serial,path=${serialFile},append=on`, "-serial", "chardev:uc-serial"],
        ...["-device", "virtio-scsi-pci,id=uc-bmc"],
        ...["-device", `scsi-cd,bus=uc-bmc.0,id=${medium},bootindex=${order}`],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    const said = logTo(child.stderr, `${dir}/qemu.log`);
    try {
      const monitor = await this.#connect(socket, child);
      this.#running = { child, monitor };
      child.status.then(async () => {
        await said;
        if (this.#running?.child !== child) return;
        this.#running = undefined;
        await monitor[Symbol.asyncDispose]();
      });
      if (this.#medium !== undefined) await this.#insert(monitor, this.#medium);
      // The guest's own restarts come from its disk: the firmware reads the order again only then.
      if (fromMedia) await setOrder(monitor, bootindex.last);
      await monitor.execute("cont");
    } catch (error) {
      await this.off();
      throw error;
    }
  }

  async off(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    const { child, monitor } = running;
    await monitor.execute("quit").catch(() => {});
    const patience = new AbortController();
    const late = systemClock.sleep(quitTimeoutMs, patience.signal).then(() => child.kill("SIGKILL"), () => {});
    await child.status;
    patience.abort();
    await late;
    await monitor[Symbol.asyncDispose]();
  }

  async reset(fromMedia: boolean): Promise<void> {
    if (!fromMedia) return void await this.#on("reset").monitor.execute("system_reset");
    // SeaBIOS answers a reset with another one, which would read the order for a second time: once must be once.
    await this.off();
    await this.on(true);
  }

  async changeMedium(file: string | undefined): Promise<void> {
    this.#medium = file;
    if (this.#running === undefined) return;
    const { monitor } = this.#running;
    if (file !== undefined) return await this.#insert(monitor, file);
    // A guest may have locked the tray; a BMC takes its image away all the same.
    await monitor.execute("blockdev-open-tray", { id: medium, force: true });
    await monitor.execute("blockdev-remove-medium", { id: medium }).catch((error) => {
      if (!/no medium|has no medium|not have a medium/i.test(String(error))) throw error;
    });
    await monitor.execute("blockdev-close-tray", { id: medium });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.off();
  }

  #on(action: string): { readonly monitor: QmpClient } {
    if (this.#running === undefined) {
      throw fault("failed_precondition", "machine_off", `Cannot ${action} the machine as it is off`);
    }
    return this.#running;
  }

  async #insert(monitor: QmpClient, file: string): Promise<void> {
    await monitor.execute("blockdev-change-medium", {
      id: medium,
      filename: file,
      format: "raw",
      force: true,
      "read-only-mode": "read-only",
    });
  }

  async #connect(socket: string, child: Deno.ChildProcess): Promise<QmpClient> {
    let ended = false;
    child.status.then(() => ended = true);
    const end = systemClock.monotonicMs() + monitorTimeoutMs;
    for (;;) {
      try {
        return await connectQmp({ path: socket }, { clock: systemClock });
      } catch (cause) {
        if (ended || systemClock.monotonicMs() > end) {
          if (!ended) child.kill("SIGKILL");
          const why = `it ${ended ? "ended" : "has no monitor"}; see ${this.#options.dir}/qemu.log`;
          throw fault("unavailable", "machine_dead", `Cannot start QEMU: ${why}`, { cause });
        }
        await systemClock.sleep(20);
      }
    }
  }
}

async function setOrder(monitor: QmpClient, value: number): Promise<void> {
  await monitor.execute("qom-set", { path: `/machine/peripheral/${medium}`, property: "bootindex", value });
}

async function logTo(words: ReadableStream<Uint8Array>, file: string): Promise<void> {
  using log = await Deno.open(file, { create: true, append: true });
  for await (const chunk of words) for (let at = 0; at < chunk.length;) at += await log.write(chunk.subarray(at));
}
