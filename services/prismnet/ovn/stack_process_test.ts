import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import { Netns, noPackets } from "./test_netns.ts";

testUnless("prismnet and net-agent under their own permissions, the agent killed and back", noPackets, async () => {
  // In a namespace of its own, as the agent makes bridges where it stands.
  await using ns = await Netns.make(`uc${Deno.pid}-stack`);
  const main = new URL("./test_stack_main.ts", import.meta.url).pathname;
  assert.match(await ns.run(Deno.execPath(), "run", "-A", main), /ready, killed, adopted/);
});
