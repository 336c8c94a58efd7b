import type { Clock } from "@ultracloud/base";
import type { VmAgentConfig } from "./config.ts";
import { removeAll } from "./files.ts";
import type { Accelerator } from "./domain/argv.ts";
import { bootUnder } from "./probe.ts";
import type { RunAs } from "./qemu.ts";

/**
 * Whom QEMUs run as. When the agent runs as root and its directories can be reached by others, each VM's QEMU and each
 * volume's daemon has a uid of its own without a name or any right: one that a guest has broken out of can reach its
 * own disk and nothing of its neighbours. Otherwise they run as the agent does.
 */
export class HostUser {
  readonly #uidFirst: number | undefined;

  constructor(options: { readonly uidFirst: number | undefined }) {
    this.#uidFirst = options.uidFirst;
  }

  get separate(): boolean {
    return this.#uidFirst !== undefined;
  }

  /** Gives the VM in the slot its directory and files, and answers whom its QEMU is to run as. */
  async forVm(slot: number, own: readonly string[], shared: readonly string[]): Promise<RunAs> {
    if (this.#uidFirst === undefined) return undefined;
    const uid = this.#uidFirst + slot;
    for (const path of own) await Deno.chown(path, uid, this.#uidFirst);
    for (const path of shared) await this.#share(path);
    return { uid, gid: this.#uidFirst };
  }

  /** The same for the daemon of an exported volume. */
  async forVolume(slot: number, dir: string, path: string): Promise<RunAs> {
    if (this.#uidFirst === undefined) return undefined;
    const uid = this.#uidFirst + volumeUidsFrom + slot;
    await Deno.chown(dir, uid, this.#uidFirst);
    await Deno.chown(path, uid, this.#uidFirst);
    return { uid, gid: this.#uidFirst };
  }

  /** Gives qemu-img the files of one run, and answers whom it is to run as; take them back after it. */
  async forTool(files: readonly string[]): Promise<RunAs> {
    if (this.#uidFirst === undefined) return undefined;
    const uid = this.#uidFirst + toolUid;
    for (const path of files) await Deno.chown(path, uid, this.#uidFirst);
    return { uid, gid: this.#uidFirst };
  }

  /** Takes a file from a VM that is to change it no more. */
  async takeBack(path: string): Promise<void> {
    if (this.#uidFirst !== undefined) await Deno.chown(path, 0, 0);
  }

  /** Lets the QEMUs of all VMs connect to a socket. */
  async giveGroup(socket: string): Promise<void> {
    if (this.#uidFirst === undefined) return;
    await Deno.chown(socket, null, this.#uidFirst);
    await Deno.chmod(socket, 0o660);
  }

  /** Lets the QEMUs of all VMs read a file: kernels of images. */
  async #share(path: string): Promise<void> {
    await Deno.chown(path, null, this.#uidFirst!);
    await Deno.chmod(path, 0o640);
  }
}

/** Uids of daemons come after those of VMs, that of qemu-img after all. */
const volumeUidsFrom = 512;
const toolUid = 1_023;

/** Uids that nothing of Debian hands out, one for each slot. */
const uidFirstDefault = 640_000;

/**
 * Whom QEMUs are to run as on this host. `auto` tries it out: a process of another uid must be able to make a file in
 * a directory of its own under both of the agent's directories.
 */
export async function chooseHostUser(
  config: Pick<VmAgentConfig, "qemuUids" | "stateDir" | "runDir">,
  accelerator: Accelerator,
  deps: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<{ readonly user: HostUser; readonly reason: string }> {
  const own = (reason: string) => ({ user: new HostUser({ uidFirst: undefined }), reason });
  if (config.qemuUids === "own") return own("configured");
  const uidFirst = config.qemuUids === "auto" ? uidFirstDefault : config.qemuUids;
  if (Deno.uid() !== 0) return own("the agent is not root");
  for (const dir of [config.stateDir, config.runDir]) {
    await Deno.mkdir(dir, { recursive: true });
    await Deno.chmod(dir, 0o711);
    const probe = `${dir}/uid-probe`;
    await removeAll(probe);
    await Deno.mkdir(probe, { mode: 0o700 });
    try {
      await Deno.chown(probe, uidFirst, uidFirst);
      const { success } = await new Deno.Command("qemu-img", {
        args: ["create", "-q", "-f", "raw", `${probe}/file`, "512"],
        clearEnv: true,
        uid: uidFirst,
        gid: uidFirst,
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).output();
      if (!success) return own(`uid ${uidFirst} cannot reach ${dir}`);
    } catch (error) {
      return own(`this host does not allow it: ${error instanceof Error ? error.message : error}`);
    } finally {
      await removeAll(probe);
    }
  }
  if (accelerator === "kvm") {
    // Whoever may open /dev/kvm says the host's own rules.
    const image = `${config.stateDir}/probe.img`;
    const refusal = await bootUnder("kvm", image, deps, { runAs: { uid: uidFirst, gid: uidFirst } });
    if (refusal !== undefined) return own(`uid ${uidFirst} cannot use KVM: ${refusal}`);
  }
  return { user: new HostUser({ uidFirst }), reason: `uids from ${uidFirst}` };
}
