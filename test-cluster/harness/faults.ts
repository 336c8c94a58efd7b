import { fault } from "@ultracloud/base";
import type { Cluster } from "./cluster.ts";

/** A station nobody has: what is sent to it is lost without a word, as on a broken path. */
const nowhere = "02:00:00:00:de:ad";
const nic = "eth0";
/** Fills a node's disk; named so that people know what they see. */
const ballast = "ballast";

/** What can go wrong with nodes and the ways between them. Everything heals. */
export class Faults {
  readonly #cluster: Cluster;
  readonly #cut = new Set<string>();
  readonly #full = new Set<string>();

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  #address(node: string): string {
    return this.#cluster.file.nodes[node]!.address;
  }

  async #ip(node: string, ...args: string[]): Promise<void> {
    const { code, stderr } = await this.#cluster.substrate.exec(node, ["ip", ...args]);
    if (code === 0) return;
    throw fault("internal", "fault_failed", `Cannot run ip ${args.join(" ")} on ${node}: ${stderr.trim()}`);
  }

  /**
   * Loses everything that `from` sends to `to`; the other direction stays. A wrong neighbour entry does it without any
   * kernel module, in a namespace as in a VM.
   */
  async cutOneWay(from: string, to: string): Promise<void> {
    await this.#ip(from, "neigh", "replace", this.#address(to), "lladdr", nowhere, "dev", nic, "nud", "permanent");
    this.#cut.add(`${from} ${to}`);
  }

  async cut(a: string, b: string): Promise<void> {
    await this.cutOneWay(a, b);
    await this.cutOneWay(b, a);
  }

  /** Cuts the nodes off from all others that are not among them; the operator still reaches everybody. */
  async partition(nodes: readonly string[]): Promise<void> {
    const others = this.#cluster.nodes.filter((node) => !nodes.includes(node));
    for (const a of nodes) for (const b of others) await this.cut(a, b);
  }

  /** Restores every way. A node whose power went has forgotten its cuts. */
  async heal(): Promise<void> {
    for (const pair of [...this.#cut]) {
      const [from, to] = pair.split(" ") as [string, string];
      await this.restore(from, to);
    }
  }

  /** Restores one direction; nothing when it is not cut. */
  async restore(from: string, to: string): Promise<void> {
    const entry = [this.#address(to), "lladdr", nowhere, "dev", nic];
    await this.#cluster.substrate.exec(from, ["ip", "neigh", "del", ...entry]);
    this.#cut.delete(`${from} ${to}`);
  }

  /** Fills the node's own file system to the last block. */
  async fillDisk(node: string): Promise<void> {
    if (this.#cluster.file.nodes[node]!.diskBytesMax === undefined) {
      throw fault(
        "failed_precondition",
        "disk_shared",
        `Cannot fill the disk of ${node}: it has none of its own, wanted diskBytesMax in the cluster file`,
      );
    }
    const path = `${this.#cluster.substrate.dirs(node).state}/${ballast}`;
    // Whole blocks first, then single bytes; dd ends with an error when nothing fits any more.
    await this.#cluster.substrate.exec(node, ["dd", "if=/dev/zero", `of=${path}`, "bs=1M"]);
    await this.#cluster.substrate.exec(node, ["dd", "if=/dev/zero", `of=${path}.rest`, "bs=512"]);
    this.#full.add(node);
  }

  async freeDisk(node: string): Promise<void> {
    const path = `${this.#cluster.substrate.dirs(node).state}/${ballast}`;
    await this.#cluster.substrate.exec(node, ["rm", "-f", path, `${path}.rest`]);
    this.#full.delete(node);
  }

  /** The node's clock jumps; nodes that share the kernel share the clock. */
  async stepClock(node: string, seconds: number): Promise<void> {
    if (!this.#cluster.substrate.ownClocks) {
      throw fault(
        "failed_precondition",
        "clock_shared",
        `Cannot step the clock of ${node} on ${this.#cluster.substrate.name}: wanted nodes with a clock of their own`,
      );
    }
    if (!Number.isInteger(seconds)) {
      throw fault("invalid_argument", "usage", `Cannot step the clock by ${seconds}: wanted whole seconds`);
    }
    const script = `date -u -s "@$(($(date +%s) + ${seconds}))"`;
    const { code, stderr } = await this.#cluster.substrate.exec(node, ["sh", "-c", script]);
    if (code !== 0) throw fault("internal", "fault_failed", `Cannot step the clock of ${node}: ${stderr.trim()}`);
  }

  /** Everything back to normal but for processes: those are started by who ended them. */
  async healAll(): Promise<void> {
    await this.heal();
    for (const node of [...this.#full]) await this.freeDisk(node);
  }
}
