import { fault } from "@ultracloud/base";
import { removeAll } from "./files.ts";
import type { Machine } from "./machine.ts";
import { refuseMicrovm } from "./machine_checks.ts";

/** A screen of 4 MiB of video memory stays far below, compressed or not. */
const pngBytesMax = 16 * 2 ** 20;

/** What the VM's screen shows, as PNG. QEMU writes it to a file of the power-on. */
export async function takeScreenshot(machine: Machine): Promise<Uint8Array<ArrayBuffer>> {
  const monitor = machine.monitor("show the screen of");
  const { run } = machine.record;
  refuseMicrovm(run?.hardware.machineType, machine.spec.vmId, "show the screen of", "its console, as it has no screen");
  const path = machine.at!.screenshot.replace(/png$/, `${crypto.randomUUID()}.png`);
  try {
    await monitor.execute("screendump", { filename: path, format: "png" });
    const { size } = await Deno.stat(path);
    if (size > pngBytesMax) {
      throw fault("resource_exhausted", "screen_too_large", `Cannot answer a picture of ${size} bytes`);
    }
    return await Deno.readFile(path);
  } finally {
    await removeAll(path);
  }
}
