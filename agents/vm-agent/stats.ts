import { fault } from "@ultracloud/base";
import { isDisk } from "./domain/block.ts";
import type { Machine } from "./machine.ts";

export interface VmStatsView {
  readonly vmId: string;
  readonly cpuTimeMs: number;
  readonly memoryBytes: number;
  readonly memoryResidentBytes: number;
  readonly disks: readonly {
    readonly device: string;
    readonly readBytes: number;
    readonly writeBytes: number;
    readonly readOperations: number;
    readonly writeOperations: number;
    readonly flushOperations: number;
  }[];
  readonly nics: readonly {
    readonly portId: string;
    readonly counted: boolean;
    readonly receivedBytes: number;
    readonly sentBytes: number;
    readonly receivedPackets: number;
    readonly sentPackets: number;
  }[];
}

interface BlockStats {
  readonly qdev?: string;
  readonly stats: Readonly<Record<string, number>>;
}

/** What a VM that is on has used since its power-on. */
export async function readStats(machine: Machine): Promise<VmStatsView> {
  const monitor = machine.monitor("measure");
  const { run, spec } = machine.record;
  const live = machine.live!;
  const [process, blocks, nics] = await Promise.all([
    processUse(live.qemu.pid),
    monitor.execute<BlockStats[]>("query-blockstats"),
    Promise.all((run?.plugged ?? spec).nics.map(async (nic) => ({
      portId: nic.portId,
      ...nic.binding.kind === "tap" ? await tapUse(nic.binding.device) : notCounted,
    }))),
  ]);
  const disks = machine.disks().map(({ device }) => {
    const stats = blocks.find((block) => isDisk(block.qdev, device))?.stats;
    return {
      device,
      readBytes: stats?.rd_bytes ?? 0,
      writeBytes: stats?.wr_bytes ?? 0,
      readOperations: stats?.rd_operations ?? 0,
      writeOperations: stats?.wr_operations ?? 0,
      flushOperations: stats?.flush_operations ?? 0,
    };
  });
  return { vmId: spec.vmId, ...process, memoryBytes: run?.hardware.memoryBytes ?? spec.memoryBytes, disks, nics };
}

/** CPU time and resident memory of a process. Files of /proc are closed to this one, so `ps` reads them. */
async function processUse(pid: number): Promise<{ cpuTimeMs: number; memoryResidentBytes: number }> {
  const text = await outputOf("ps", ["-o", "cputimes=,rss=", "-p", String(pid)]);
  const [seconds, kib] = text.trim().split(/\s+/).map(Number);
  if (seconds === undefined || kib === undefined || !Number.isFinite(seconds + kib)) {
    throw fault("unavailable", "process_gone", `Cannot measure process ${pid} as ps does not know it`);
  }
  return { cpuTimeMs: seconds * 1000, memoryResidentBytes: kib * 1024 };
}

const notCounted = { counted: false, receivedBytes: 0, sentBytes: 0, receivedPackets: 0, sentPackets: 0 };

/** Counters of a tap, turned round: what the host's end sends, the guest receives. */
async function tapUse(device: string) {
  interface Link {
    readonly stats64?: Readonly<Record<"rx" | "tx", { readonly bytes: number; readonly packets: number }>>;
  }
  const text = await outputOf("ip", ["-s", "-j", "link", "show", "dev", device]).catch(() => "[]");
  const stats = (JSON.parse(text || "[]") as Link[])[0]?.stats64;
  if (!stats) return notCounted;
  return {
    counted: true,
    receivedBytes: stats.tx.bytes,
    sentBytes: stats.rx.bytes,
    receivedPackets: stats.tx.packets,
    sentPackets: stats.rx.packets,
  };
}

/** What a program of the host answers. */
export async function outputOf(program: "ps" | "ip", args: readonly string[]): Promise<string> {
  const output = await new Deno.Command(program, {
    args: [...args],
    clearEnv: true,
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).output();
  return new TextDecoder().decode(output.stdout);
}
