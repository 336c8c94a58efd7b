import assert from "node:assert/strict";
import { createTestCa, workspaceRoot } from "@ultracloud/testing";
import { certificateSha256 } from "./authority.ts";

/** Fetches with nothing granted but the network, as an installer does; prints what came of it. */
async function fetched(url: string, pin: string): Promise<string> {
  const source = `import { fetchAuthority } from ${JSON.stringify(new URL("./authority.ts", import.meta.url).href)};
    const [url, pin] = ${JSON.stringify([url, pin])};
    console.log(await fetchAuthority(url, pin === "" ? undefined : pin).catch((error) => error.code ?? String(error)));
    Deno.exit(0);`;
  const dir = await Deno.makeTempDir({ prefix: "uc-authority-" });
  try {
    await Deno.writeTextFile(`${dir}/main.ts`, source);
    const grants = [
      "--no-prompt",
      "--frozen",
      `--config=${workspaceRoot}/deno.json`,
      `--allow-net=${new URL(url).host}`,
    ];
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", ...grants, `${dir}/main.ts`],
    }).output();
    return new TextDecoder().decode(stdout).trim() || new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("a CA is taken from a server that nobody knows yet when it is the pinned one, and only then", async () => {
  const ca = await createTestCa();
  const dir = await Deno.makeTempDir({ prefix: "uc-authority-" });
  await ca.issueFiles(dir, "tls", { spiffeId: "spiffe://test/svc/deployer", addresses: ["127.0.0.1"] });
  const read = (name: string) => Deno.readTextFileSync(`${dir}/${name}`);
  const answers = { text: ca.caPem };
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, cert: read("tls.crt"), key: read("tls.key"), onListen: () => {} },
    () => new Response(answers.text),
  );
  try {
    const url = `https://127.0.0.1:${(server.addr as Deno.NetAddr).port}/ca.crt`;
    const pin = certificateSha256(ca.caPem)!;
    assert.equal(await fetched(url, pin), ca.caPem.trim());
    assert.equal(await fetched(url, "00".repeat(32)), "ca_mismatch");
    assert.equal(await fetched(url, ""), "ca_unpinned");
    answers.text = "no certificate";
    assert.equal(await fetched(url, pin), "ca_mismatch");
  } finally {
    await server.shutdown();
    await Deno.remove(dir, { recursive: true });
  }
});
