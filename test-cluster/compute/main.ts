import { missingPrograms } from "@ultracloud/testing";
import { serialConsole } from "./console.ts";
import { fencing } from "./fencing.ts";
import { fetchImages } from "./fetch.ts";
import { images } from "./images.ts";
import { killed, kills } from "./kills.ts";
import { lifecycle } from "./lifecycle.ts";
import { microvm } from "./microvm.ts";
import { network } from "./network.ts";
import { operator } from "./operator.ts";
import { migration } from "./migration.ts";
import { printingProof, type Proof } from "./proof.ts";
import { race } from "./race.ts";
import { snapshot } from "./snapshot.ts";
import { volume } from "./volume.ts";

/** `deno task compute:prove -- <name>...`: whole clouds of VMs on this machine, under TCG. */
const proofs: Readonly<Record<string, (proof: Proof) => Promise<void>>> = {
  images,
  fetch: fetchImages,
  lifecycle,
  operator,
  microvm,
  volume,
  snapshot,
  console: serialConsole,
  migration,
  network,
  fencing,
  race,
  ...Object.fromEntries(killed.map((which) => [`kills-${which}`, (proof: Proof) => kills(proof, which)])),
};

const names = Deno.args.filter((arg) => arg !== "--");
const unknown = names.filter((name) => !(name in proofs));
if (unknown.length > 0) {
  console.error(`Cannot prove ${unknown.join(", ")}: wanted ${Object.keys(proofs).join(", ")}`);
  Deno.exit(2);
}
const missing = missingPrograms("qemu-system-x86_64", "qemu-img", "qemu-storage-daemon");
const counts = { passed: 0, failed: 0, skipped: 0 };
for (const name of names.length > 0 ? names : Object.keys(proofs)) {
  if (missing !== undefined) {
    console.log(`skipped ${name}: ${missing}`);
    counts.skipped++;
    continue;
  }
  console.log(`running ${name}`);
  const start = performance.now();
  try {
    await proofs[name]!(printingProof(console.log));
    console.log(`ok      ${name} (${((performance.now() - start) / 1000).toFixed(0)} s)`);
    counts.passed++;
  } catch (error) {
    console.log(
      `failed  ${name}: ${
        error instanceof Error ? `${error.message}${error.cause ? `: ${error.cause}` : ""}\n${error.stack}` : error
      }`,
    );
    counts.failed++;
  }
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
Deno.exit(counts.failed > 0 ? 1 : 0);
