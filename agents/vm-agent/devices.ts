import { type Clock, Fault, fault } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { blockDevice, blockDeviceOf, blockNode, type Disk, isDisk, nodeOf, spareNodeOf } from "./domain/block.ts";
import { hardwareOf, portOfBus } from "./domain/hardware.ts";
import { type Layout, placed } from "./domain/layout.ts";
import { forwardChanges, netdev, netdevOf, nicDevice, nicDeviceOf } from "./domain/nics.ts";
import type { NicSpec } from "./domain/spec.ts";

/** A guest lets go of a device within a moment unless it is busy with its boot. */
const unplugTimeoutMs = 30_000;
/** A guest whose driver was not there yet misses the request, so it is made again. */
const unplugEveryMs = 3_000;

/** What sits in the ports of a QEMU, by port id of a NIC, volume id, or "root". */
export type Plugged = Pick<Layout, "ports" | "sizes">;

/** The machine whose devices change while it runs: PCI alone can. */
const pci = "q35";

/** What a QEMU has plugged, as it says itself: true whatever an agent before this one did. */
export async function readPlugged(monitor: QmpClient): Promise<Plugged> {
  const devices = await monitor.execute<{ name: string }[]>("qom-list", { path: "/machine/peripheral" });
  const ports: Record<string, number> = {};
  for (const { name } of devices) {
    const device = /^(?:disk|nic)-(.+)$/.exec(name)?.[1];
    if (device === undefined) continue;
    const bus = await monitor.execute<string>("qom-get", {
      path: `/machine/peripheral/${name}`,
      property: "parent_bus",
    });
    const port = portOfBus(bus);
    if (port !== undefined) ports[device] = port;
  }
  const sizes: Record<string, number> = {};
  for (const block of await monitor.execute<BlockInfo[]>("query-block")) {
    const device = /\/peripheral\/disk-([^/]+)/.exec(block.qdev ?? "")?.[1];
    if (device !== undefined && block.inserted) sizes[device] = block.inserted.image["virtual-size"];
  }
  return { ports, sizes };
}

export interface Devices {
  readonly nics: readonly NicSpec[];
  readonly disks: readonly Disk[];
}

/**
 * Plugs and unplugs until a running guest has exactly `to`; `from` is what it had. What is right already is left
 * alone, so a call that was cut off is simply made again. Answers what is plugged then.
 */
export async function plugDevices(
  monitor: QmpClient,
  from: Devices,
  to: Devices,
  deps: { readonly clock: Clock },
): Promise<Plugged> {
  const nodes = await nodeNames(monitor);
  for (const disk of from.disks) {
    const wanted = to.disks.find(({ device }) => device === disk.device);
    if (wanted && wanted.readOnly === disk.readOnly) continue;
    await unplug(monitor, blockDeviceOf(disk.device), deps);
    for (const node of [nodeOf(disk.device), spareNodeOf(disk.device)]) {
      if (nodes.has(node)) await monitor.execute("blockdev-del", { "node-name": node });
    }
  }
  const before = (await readPlugged(monitor)).ports;
  for (const nic of from.nics) {
    const wanted = to.nics.find(({ portId }) => portId === nic.portId);
    if (wanted && JSON.stringify(wanted) === JSON.stringify(nic)) continue;
    const changes = wanted && before[nic.portId] !== undefined ? forwardChanges(nic, wanted) : undefined;
    if (changes) {
      await followForwards(monitor, nic.portId, changes);
      continue;
    }
    await unplug(monitor, nicDeviceOf(nic.portId), deps);
    await monitor.execute("netdev_del", { id: netdevOf(nic.portId) }).catch(unlessAbsent);
  }
  const plugged = (await readPlugged(monitor)).ports;
  const ports = placed(pci, plugged, [...to.nics.map((nic) => nic.portId), ...to.disks.map((disk) => disk.device)]);
  for (const disk of to.disks) {
    if (plugged[disk.device] !== undefined) await followDisk(monitor, disk);
    else await plugDisk(monitor, disk, ports[disk.device]!);
  }
  for (const nic of to.nics) {
    if (plugged[nic.portId] === undefined) await plugNic(monitor, nic, ports[nic.portId]!);
  }
  return await readPlugged(monitor);
}

async function plugDisk(monitor: QmpClient, disk: Disk, port: number): Promise<void> {
  const node = nodeOf(disk.device);
  // Left by an agent that died between the two commands.
  for (const name of [node, spareNodeOf(disk.device)]) {
    await monitor.execute("blockdev-del", { "node-name": name }).catch(unlessAbsent);
  }
  await monitor.execute("blockdev-add", blockNode(disk));
  try {
    await monitor.execute("device_add", blockDevice(disk, port, hardwareOf(pci)));
  } catch (error) {
    await monitor.execute("blockdev-del", { "node-name": node }).catch(() => {});
    throw error;
  }
}

async function plugNic(monitor: QmpClient, nic: NicSpec, port: number): Promise<void> {
  await monitor.execute("netdev_del", { id: netdevOf(nic.portId) }).catch(unlessAbsent);
  await monitor.execute("netdev_add", netdev(nic));
  try {
    await monitor.execute("device_add", nicDevice(nic, port, hardwareOf(pci)));
  } catch (error) {
    await monitor.execute("netdev_del", { id: netdevOf(nic.portId) }).catch(() => {});
    throw error;
  }
}

/** Changes what of the host leads to a guest; the guest keeps its NIC and its connections. */
async function followForwards(
  monitor: QmpClient,
  portId: string,
  changes: { readonly remove: readonly string[]; readonly add: readonly string[] },
): Promise<void> {
  // These two commands exist for people only: they answer in words.
  const say = (words: string) =>
    monitor.execute<string>("human-monitor-command", {
      "command-line": `${words.replace(" ", ` ${netdevOf(portId)} `)}`,
    });
  // One that is not there was removed by an agent that died before it could write that down.
  for (const end of changes.remove) await say(`hostfwd_remove ${end}`);
  for (const rule of changes.add) {
    // Likewise one that is there already.
    await say(`hostfwd_remove ${rule.slice(0, rule.indexOf("-"))}`);
    const said = (await say(`hostfwd_add ${rule}`)).trim();
    if (said !== "") {
      throw fault("unavailable", "forward_refused", `Cannot forward ${rule} to ${portId} as QEMU says: ${said}`, {
        retryAfterMs: 1_000,
      });
    }
  }
}

interface BlockInfo {
  readonly qdev?: string;
  readonly inserted?: {
    readonly "node-name"?: string;
    readonly image: { readonly "virtual-size": number; readonly filename: string };
  };
}

/** Node that is under a disk of the guest just now, and its size. */
export async function attachedNode(
  monitor: QmpClient,
  device: string,
): Promise<{ readonly node: string; readonly bytes: number; readonly path: string } | undefined> {
  const blocks = await monitor.execute<BlockInfo[]>("query-block");
  const found = blocks.find((block) => isDisk(block.qdev, device));
  const node = found?.inserted?.["node-name"];
  if (node === undefined) return undefined;
  return { node, bytes: found!.inserted!.image["virtual-size"], path: found!.qdev! };
}

/** Gives a plugged disk the size and the export it is to have. */
async function followDisk(monitor: QmpClient, disk: Disk): Promise<void> {
  const now = await attachedNode(monitor, disk.device);
  if (!now) return;
  if (disk.source.kind === "file") {
    if (now.bytes < disk.sizeBytes) await resize(monitor, now.node, disk.sizeBytes);
    return;
  }
  const nodes = await monitor.execute<{ "node-name": string; image: { filename: string } }[]>(
    "query-named-block-nodes",
    { flat: true },
  );
  const filename = nodes.find((node) => node["node-name"] === now.node)?.image.filename ?? "";
  if (now.bytes >= disk.sizeBytes && namesExport(filename, disk.source.uri)) return;
  // A client of NBD never learns of a new size, so a new one takes the place of the old one under the device.
  const next = now.node === nodeOf(disk.device) ? spareNodeOf(disk.device) : nodeOf(disk.device);
  await monitor.execute("blockdev-del", { "node-name": next }).catch(unlessAbsent);
  await monitor.execute("blockdev-add", blockNode(disk, next));
  await monitor.execute("qom-set", {
    path: now.path,
    property: "drive",
    value: next,
  });
  const bytes = (await attachedNode(monitor, disk.device))?.bytes ?? 0;
  if (bytes < disk.sizeBytes) {
    throw fault(
      "failed_precondition",
      "volume_smaller",
      `Cannot grow ${disk.device} to ${disk.sizeBytes} bytes as its export has ${bytes}: wanted the volume grown first`,
    );
  }
  // Of the size it has: tells the guest.
  await resize(monitor, next, bytes);
  await monitor.execute("blockdev-del", { "node-name": now.node });
}

/** True when QEMU's name of an open export (`nbd+unix:///<name>?socket=<path>`) is that of the URI. */
function namesExport(filename: string, uri: string): boolean {
  return filename === uri;
}

export async function resize(monitor: QmpClient, node: string, bytes: number): Promise<void> {
  await monitor.execute("block_resize", { "node-name": node, size: bytes });
}

/** Asks the guest for the device until it is gone. */
async function unplug(monitor: QmpClient, id: string, deps: { readonly clock: Clock }): Promise<void> {
  const gone = Promise.withResolvers<true>();
  const stop = monitor.onEvent((event) => {
    if (event.name === "DEVICE_DELETED" && event.data.device === id) gone.resolve(true);
  });
  try {
    const deadline = deps.clock.monotonicMs() + unplugTimeoutMs;
    for (;;) {
      try {
        await monitor.execute("device_del", { id });
      } catch (error) {
        if (classOf(error) === "DeviceNotFound") return;
        // "already in the process of unplug": the guest was asked and has not answered.
        if (!(error instanceof Fault && error.code === "qmp_error")) throw error;
      }
      const pause = new AbortController();
      const late = deps.clock.sleep(unplugEveryMs, pause.signal).then(() => false, () => false);
      const over = await Promise.race([gone.promise, late]);
      pause.abort();
      if (over) return;
      if (deps.clock.monotonicMs() > deadline) {
        throw fault(
          "unavailable",
          "device_busy",
          `Cannot unplug ${id} as the guest does not let go of it: wanted it to within ${unplugTimeoutMs} ms`,
          { retryAfterMs: unplugEveryMs },
        );
      }
    }
  } finally {
    stop();
  }
}

export async function nodeNames(monitor: QmpClient): Promise<ReadonlySet<string>> {
  const nodes = await monitor.execute<{ "node-name": string }[]>("query-named-block-nodes", { flat: true });
  return new Set(nodes.map((node) => node["node-name"]));
}

function classOf(error: unknown): string | undefined {
  return error instanceof Fault ? error.detail.metadata?.class : undefined;
}

/** What the monitor refuses because it is not there is as wanted. */
export function unlessAbsent(error: unknown): void {
  const absent = error instanceof Fault && error.code === "qmp_error" &&
    (classOf(error) === "DeviceNotFound" || /(not found|Failed to find node|Cannot find)/i.test(error.message));
  if (!absent) throw error;
}
