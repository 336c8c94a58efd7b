import assert from "node:assert/strict";
import { testUnless } from "@ultracloud/testing";
import { Netns, noPackets } from "./test_netns.ts";

testUnless(
  "prismnet, net-agent and every daemon, as processes, are killed under traffic and come back",
  noPackets,
  async () => {
    // In a namespace of its own, as the agent makes bridges where it stands.
    await using ns = await Netns.make(`uc${Deno.pid}-stack`);
    const main = new URL("./test_stack_main.ts", import.meta.url).pathname;
    const said = await ns.run(Deno.execPath(), "run", "-q", "-A", main);
    console.log(said.trimEnd().replaceAll(/^/gm, "    "));
    assert.equal([...said.matchAll(/state as desired/g)].length, 8);
  },
);

testUnless(
  "prismnet reaches a northbound database on another host by what its manifest grants, and no other",
  noPackets,
  async () => {
    await using ns = await Netns.make(`uc${Deno.pid}-remote`);
    const main = new URL("./test_remote_main.ts", import.meta.url).pathname;
    const said = await ns.run(Deno.execPath(), "run", "-q", "-A", main);
    console.log(said.trimEnd().replaceAll(/^/gm, "    "));
    assert.match(said, /remote northbound: as granted/);
  },
);

testUnless(
  "an unchanged network costs no transaction, in the northbound database and in the switch's",
  noPackets,
  async () => {
    await using ns = await Netns.make(`uc${Deno.pid}-quiet`);
    const main = new URL("./test_stack_main.ts", import.meta.url).pathname;
    const said = await ns.run(Deno.execPath(), "run", "-q", "-A", main, "unchanged");
    console.log(said.trimEnd().replaceAll(/^/gm, "    "));
    assert.match(said, /0 of \d+ and \d+ transactions/);
  },
);
