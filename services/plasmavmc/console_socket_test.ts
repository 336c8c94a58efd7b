import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { serveLocally } from "@ultracloud/testing";
import { consoleSocket } from "./console_socket.ts";
import { importImage, over, project, register, until, vmRequest, World } from "./test_world.ts";

const protocols = ["ultracloud.console.v1", "ultracloud.bearer.test"];
const said = "hello from the guest\n";

/** A browser's side: everything that came, in order. */
function connect(url: string, query: Record<string, string>, asked: string[] = protocols) {
  const at = `${url.replace("http:", "ws:")}/console/v1?${new URLSearchParams({ project, vm: "web", ...query })}`;
  const socket = new WebSocket(at, asked);
  socket.binaryType = "arraybuffer";
  const seen: string[] = [];
  const opened = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<CloseEvent>();
  socket.onopen = () => opened.resolve();
  socket.onclose = (event) => closed.resolve(event);
  socket.onmessage = ({ data }) => {
    seen.push(typeof data === "string" ? data : `bytes ${new TextDecoder().decode(data)}`);
  };
  return { socket, seen, opened: opened.promise, closed: closed.promise };
}

async function withVm(
  work: (url: string, world: World, server: Awaited<ReturnType<typeof serveLocally>>) => Promise<void>,
) {
  await using world = await World.open();
  await using process = await world.boot();
  const http = consoleSocket({ clock: systemClock, log: noopLogger });
  await using server = await serveLocally("plasmavmc", process.services, http);
  await register(process, "node01");
  await importImage(process);
  await over(process, await process.vms.createVm(vmRequest));
  await work(server.url, world, server);
}

Deno.test("a browser reads a console by WebSocket with its offsets, types, and leaves", async () => {
  await withVm(async (url, world, server) => {
    const { socket, seen, opened, closed } = connect(url, { offset: "6" });
    await opened;
    assert.equal(socket.protocol, protocols[0]);
    await until("the guest's words", () => seen.length >= 2);
    assert.deepEqual(seen.slice(0, 2), ['{"offset":"6"}', `bytes ${said.slice(6)}`]);
    for (const keys of ["l", "s\r"]) socket.send(new TextEncoder().encode(keys));
    const typed = () => world.agent("node01").calls.filter((call) => call === "type").length;
    await until("both are typed", () => typed() === 2);
    assert.ok(server.asked.some(({ permission }) => permission === "plasmavmc.vm.console"));
    assert.ok(server.asked.some(({ permission }) => permission === "plasmavmc.vm.type"));
    socket.close();
    assert.equal((await closed).wasClean, true);
  });
});

Deno.test("a console socket refuses who may not, what is no VM, text, and what is no WebSocket, each with its reason", async () => {
  await withVm(async (url, _world, server) => {
    const refused = async (query: Record<string, string>, asked?: string[]) => {
      const { seen, closed } = connect(url, query, asked);
      const { code } = await closed;
      return [code, JSON.parse(seen.at(-1) ?? "{}").error?.code];
    };
    assert.deepEqual(await refused({}, [protocols[0]!]), [4000, "unauthenticated"]);
    assert.deepEqual(await refused({ vm: "other" }), [4000, "vm_not_found"]);
    assert.deepEqual(await refused({ offset: "soon" }), [4000, "invalid_field"]);
    server.who = { ...server.who, allow: false };
    assert.deepEqual(await refused({}), [4000, "permission_denied"]);
    server.who = { ...server.who, allow: true };

    const { socket, seen, opened, closed } = connect(url, {});
    await opened;
    socket.send("text");
    assert.equal((await closed).code, 4000);
    assert.match(seen.at(-1)!, /wanted bytes/);

    const plain = await fetch(`${url}/console/v1?project=${project}&vm=web`);
    assert.deepEqual([plain.status, (await plain.json()).code], [426, "websocket_wanted"]);
  });
});
