import assert from "node:assert/strict";
import { Marks } from "./marks.ts";

Deno.test("markers are shown at once and posted in order, under the node that the machine has become", async () => {
  const [printed, posted]: [string[], string[]] = [[], []];
  const marks = new Marks({ node: "sn-1" }, { print: (line) => printed.push(line) });
  marks.show("pre-install.boot");
  await marks.settled();
  assert.deepEqual([printed.length, posted.length], [1, 0]);
  marks.node = "node01";
  marks.postBy(({ name, node }) => {
    posted.push(`${name} ${node}`);
    return Promise.resolve();
  });
  marks.show("pre-install.phone-home.complete");
  await marks.settled();
  assert.deepEqual(posted, ["pre-install.boot node01", "pre-install.phone-home.complete node01"]);
});

Deno.test("a deployer out of reach holds nothing up, and gets what it missed", async () => {
  const posted: string[] = [];
  const marks = new Marks({ node: "n" }, { print: () => {} });
  let up = false;
  marks.postBy(({ name }) => {
    if (!up) return Promise.reject(new Error("down"));
    posted.push(name);
    return Promise.resolve();
  });
  marks.show("install.bundle-downloaded");
  await marks.settled();
  up = true;
  marks.show("reboot");
  await marks.settled();
  assert.deepEqual(posted, ["install.bundle-downloaded", "reboot"]);
});
