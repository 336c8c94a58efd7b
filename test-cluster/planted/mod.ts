import { fault } from "@ultracloud/base";

const dir = new URL(".", import.meta.url).pathname;
const on = (suffix: string) => ({ chainfire: `${dir}chainfire_${suffix}.ts`, flaredb: `${dir}flaredb_${suffix}.ts` });

/** What the logs of the stores may lie on in a lane, and the programs that make it so. */
const disks: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  plain: {},
  /** What was not synced is gone with the process: every kill is a power cut for the log. */
  "power-loss": on("power_loss"),
  /** The planted fault: acknowledged before anything is written. A lane on it must fail. */
  "ack-before-fsync": on("lying"),
};

export const diskNames = Object.keys(disks).join(", ");

/** Programs of the stores on a disk of that name; the plain one by default. */
export function storesOn(name = "plain"): Readonly<Record<string, string>> {
  const entries = disks[name];
  if (entries) return entries;
  throw fault("invalid_argument", "usage", `Cannot use --disk ${name}: wanted one of ${diskNames}`);
}
