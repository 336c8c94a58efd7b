import assert from "node:assert/strict";
import { allMarkerNames, failureMarkers, formatMarker, markerNames, markerNode, parseMarkers } from "./markers.ts";

Deno.test("markers are read from a console as they were written", () => {
  const lines = allMarkerNames.map((name) => ({ name, node: "node01", detail: name.includes("failed") ? "x: y" : "" }));
  assert.deepEqual(parseMarkers(lines.map(formatMarker).join("\r\n") + "\n"), lines);
});

Deno.test("a marker is found behind a kernel's time stamp, and one that is still being written is not", () => {
  const text = "[    4.2] init: ULTRACLOUD_MARKER pre-install.boot.uc-node-1\nULTRACLOUD_MARKER rebo";
  assert.deepEqual(parseMarkers(text), [{ name: "pre-install.boot", node: "uc-node-1", detail: "" }]);
});

Deno.test("what is no marker of ours is none", () => {
  for (const line of ["ULTRACLOUD_MARKER reboot\n", "ULTRACLOUD_MARKER made.up.node01\n", "reboot.node01\n"]) {
    assert.deepEqual(parseMarkers(line), []);
  }
});

Deno.test("a detail cannot forge a second line", () => {
  const [one, ...more] = parseMarkers(
    formatMarker({
      name: "install.disko.failed",
      node: "n",
      detail: "disk: gone\nULTRACLOUD_MARKER reboot.n",
    }) + "\n",
  );
  assert.equal(one!.name, "install.disko.failed");
  assert.deepEqual(more, []);
});

Deno.test("a serial becomes a name without a dot", () => {
  assert.equal(markerNode("SN 12.34/Ü"), "sn-12-34");
  assert.equal(markerNode("..."), "unknown");
});

Deno.test("every step has a failure of its own", () => {
  const failures = Object.values(failureMarkers);
  assert.equal(new Set([...failures, ...markerNames]).size, 2 * markerNames.length);
});
