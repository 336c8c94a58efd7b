import assert from "node:assert/strict";
import fc from "fast-check";
import { fallbackDeployerUrl, formatCmdline, parseCmdline } from "./parameters.ts";

const whole = "BOOT_IMAGE=/boot/vmlinuz console=ttyS0 ultracloud.deployer_url=https://10.0.0.1:7152 " +
  "ultracloud.bootstrap_token=abc.DEF_1 ultracloud.ca_cert_url=https://10.0.0.1:7152/api/v1/ca.crt " +
  `ultracloud.ca_sha256=${"0f".repeat(32)} ultracloud.binary_cache_url=http://10.0.0.2:8090 ` +
  "ultracloud.node_id=node01 ultracloud.hostname=node01\n";

Deno.test("the kernel's words become parameters, and others are passed over", () => {
  assert.deepEqual(parseCmdline(whole), {
    deployer_url: "https://10.0.0.1:7152",
    bootstrap_token: "abc.DEF_1",
    ca_cert_url: "https://10.0.0.1:7152/api/v1/ca.crt",
    ca_sha256: "0f".repeat(32),
    binary_cache_url: "http://10.0.0.2:8090",
    node_id: "node01",
    hostname: "node01",
  });
});

Deno.test("a machine that was told nothing tries the host of a VM", () => {
  assert.deepEqual(parseCmdline("quiet"), { deployer_url: fallbackDeployerUrl });
});

const wrong: Readonly<Record<string, [text: string, said: RegExp]>> = {
  "an unknown name": ["ultracloud.deployer=x", /ultracloud\.deployer is unknown/],
  "a name that is there twice": ["ultracloud.node_id=a ultracloud.node_id=b", /node_id: it is there twice/],
  "an address of another kind": ["ultracloud.deployer_url=ftp://x", /deployer_url: wanted http/],
  "a user in an address": ["ultracloud.binary_cache_url=http://u:p@x", /wanted no user/],
  "a name that no node may have": ["ultracloud.node_id=Node_1", /node_id: wanted 1 to 32/],
  "a digest that is too short": ["ultracloud.ca_sha256=abcd", /ca_sha256: wanted 64/],
  "an empty value": ["ultracloud.hostname", /hostname: wanted a host name/],
};
for (const [what, [text, said]] of Object.entries(wrong)) {
  Deno.test(`${what} is refused`, () => {
    assert.throws(() => parseCmdline(text), { code: "parameters_invalid", message: said });
  });
}

Deno.test("a message about wrong parameters holds no token", () => {
  assert.throws(() => parseCmdline("ultracloud.bootstrap_token=s%cret ultracloud.x=1"), (error: Error) => {
    return !error.message.includes("s%cret") && error.message.includes("bootstrap_token");
  });
});

Deno.test("parameters survive a kernel's command line", () => {
  const parameters = parseCmdline(whole);
  assert.deepEqual(parseCmdline(`quiet ${formatCmdline(parameters)} panic=1`), parameters);
});

Deno.test("whatever the command line is, it is parsed or refused as one thing", () => {
  fc.assert(fc.property(fc.string({ maxLength: 300 }), (text) => {
    try {
      parseCmdline(`ultracloud.${text}`);
    } catch (error) {
      assert.equal((error as { code?: string }).code, "parameters_invalid");
    }
  }));
});
