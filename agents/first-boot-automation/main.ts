import { systemClock, systemRng } from "@ultracloud/base";
import { runOneShot } from "@ultracloud/bootstrap";
import { configSchema, runFirstBoot } from "./mod.ts";

const name = "first-boot-automation";

await runOneShot({ name, version: "0.1.0", schema: configSchema }, async (config, signal) => {
  const say = (text: string) => console.log(`${name}: ${text}`);
  const done = await runFirstBoot(config, { clock: systemClock, rng: systemRng, say }, signal);
  say(done ? "the agent has its credentials" : "nothing to do");
});
