import type { Programs } from "./programs.ts";

/** Names of taps that this agent makes; it touches no other. */
const tapPattern = /^ut[0-9a-z]{12}$/;

/** Names of the devices in this network namespace. */
export async function devices(programs: Programs): Promise<Set<string>> {
  // Brief: a thousand taps in JSON are half a megabyte.
  const lines = await programs.run("ip", ["-brief", "link", "show"]);
  return new Set(lines.split("\n").flatMap((line) => /^[^\s@]+/.exec(line)?.[0] ?? []));
}

/**
 * Makes taps that are missing and removes those nobody wants; answers what it did. One `ip` does all of it, told by
 * `batchFile`: a thousand taps would be two thousand processes.
 */
export async function applyTaps(
  wanted: readonly { readonly device: string; readonly mtu: number }[],
  programs: Programs,
  batchFile: string,
): Promise<{ readonly made: number; readonly removed: number }> {
  const present = await devices(programs);
  let made = 0, removed = 0;
  const commands: string[] = [];
  for (const { device, mtu } of wanted) {
    if (present.delete(device)) continue;
    commands.push(`tuntap add dev ${device} mode tap`, `link set dev ${device} mtu ${mtu} up`);
    made++;
  }
  for (const device of present) {
    if (!tapPattern.test(device)) continue;
    commands.push(`link delete dev ${device}`);
    removed++;
  }
  if (commands.length > 0) {
    await Deno.writeTextFile(batchFile, commands.join("\n") + "\n");
    // What fails is tried again with the next look; the rest is not kept waiting for it.
    await programs.run("ip", ["-force", "-batch", batchFile]);
  }
  return { made, removed };
}
