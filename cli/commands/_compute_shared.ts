import type { Operation } from "@ultracloud/proto/common/v1";
import { type Vm, VmService } from "@ultracloud/proto/plasmavmc/v1";
import { DesiredState, MachineType, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { fault } from "@ultracloud/base";
import { type Column, enumName, humanAge } from "../frame/columns.ts";
import { text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { metaColumns, pages } from "./_shared.ts";

export const seconds = (time: { seconds: bigint } | undefined) =>
  time === undefined ? "" : humanAge(Number(time.seconds) * 1000, Date.now());

export const vmColumns: readonly Column<Vm>[] = [
  ...metaColumns<Vm>(),
  { name: "state", get: (v) => enumName(VmState, v.state) },
  { name: "flavor", get: (v) => v.flavor },
  { name: "node", get: (v) => v.node },
  { name: "ip", get: (v) => v.nics.map((n) => n.ipAddress).join(" ") },
  {
    name: "endpoints",
    get: (v) => v.nics.flatMap((n) => n.endpoints).map((e) => `${e.protocol}:${e.guestPort}=${e.address}`).join(" "),
  },
  { name: "wanted", get: (v) => enumName(DesiredState, v.desiredState), wide: true },
  { name: "accelerator", get: (v) => v.accelerator, wide: true },
  { name: "machine", get: (v) => enumName(MachineType, v.machineType), wide: true },
  { name: "up", get: (v) => seconds(v.startedTime), wide: true },
  { name: "reason", get: (v) => v.stateReason, wide: true },
  { name: "volumes", get: (v) => v.volumes.map((a) => a.volume).join(" "), wide: true },
  { name: "restarts", get: (v) => String(v.restarts), wide: true },
];

export const vmArg = [{ brief: "VM, name or id", placeholder: "vm" }] as const;

export const vmNames = async (session: Session) => {
  const client = session.client(VmService, "plasmavmc");
  return (await pages((page) => client.listVms({ project: session.project, page }), (r) => r.vms)).map((v) =>
    v.meta!.name
  );
};

/** A flag that may be given several times. */
export const many = (brief: string) =>
  ({ kind: "parsed", parse: text, optional: true, variadic: true, brief }) as const;

const units: Readonly<Record<string, number>> = { "": 1, B: 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** "4GiB", "512M" or plain bytes. */
export function parseSize(input: string): number {
  const match = /^(\d+)\s*([KMGT]?)(?:i?B)?$/i.exec(input);
  const bytes = match ? Number(match[1]) * units[match[2]!.toUpperCase()]! : NaN;
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new Error(`Cannot read ${JSON.stringify(input)} as a size: wanted 4GiB, 512MiB or bytes`);
}

/** One of the words, or a usage failure that lists them. */
export function wordOf<T>(words: Readonly<Record<string, T>>, input: string, what: string): T {
  const found = words[input];
  if (found !== undefined) return found;
  throw fault(
    "invalid_argument",
    "unknown_word",
    `Cannot use ${JSON.stringify(input)} as ${what}: wanted ${Object.keys(words).join(", ")}`,
  );
}

/** The result is a packed message of another component's types: `uc vm show` prints it better. */
export function withoutResult(operation: Operation): Operation {
  const { result: _, ...rest } = operation;
  return rest as Operation;
}
