import assert from "node:assert/strict";
import { readContexts, writeContexts } from "../frame/contexts.ts";
import { Desk } from "./test_desk.ts";

const password = "correct horse battery staple 9";
const newPassword = "another correct horse 10";

/** Makes the access token that the desk holds look old, so that the next command renews the login. */
function age(desk: Desk): void {
  const path = `${desk.dir}/uc.json`;
  const file = readContexts(path);
  file.credentials.test!.expiresAtMs = 0;
  writeContexts(path, file);
}

async function acceptedAt(desk: Desk, accessToken: string): Promise<boolean> {
  const response = await fetch(`${desk.url}/ultracloud.iam.v1.TokenService/WhoAmI`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${accessToken}` },
    body: "{}",
  });
  await response.body?.cancel();
  return response.ok;
}

Deno.test("several uc at once renew one login together, and logging out ends it at iam", async () => {
  await using desk = await Desk.openIam();
  for (let round = 0; round < 3; round++) {
    age(desk);
    const answers = await Promise.all(Array.from({ length: 6 }, () => desk.uc(["whoami"])));
    // A refresh token used twice ends the login for all.
    assert.deepEqual(answers.map(({ code, err }) => [code, err]), answers.map(() => [0, ""]));
  }
  age(desk);
  // Who changes the file while a login is renewed takes nothing back.
  const [renewed, changed] = await Promise.all([desk.uc(["whoami"]), desk.uc(["context", "set", "other"])]);
  assert.deepEqual([renewed.code, changed.code], [0, 0]);
  const { accessToken } = readContexts(`${desk.dir}/uc.json`).credentials.test!;
  assert.equal(await acceptedAt(desk, accessToken), true);
  const { err } = await desk.uc(["logout"]);
  assert.equal(err, "Logged out of test\n");
  assert.equal(await acceptedAt(desk, accessToken), false, "its access token ends with the login");
  await desk.fails(4, ["whoami"], /nobody is logged in/);
});

/** What a browser without cookies of before does with the page: sends its form, with what a person types. */
async function decide(url: string, typed: Record<string, string>): Promise<number> {
  const page = await fetch(url);
  const html = await page.text();
  const fields = new URLSearchParams();
  for (const [tag] of html.matchAll(/<input[^>]*>/g)) {
    fields.set(/name="([^"]*)"/.exec(tag)?.[1] ?? "", /value="([^"]*)"/.exec(tag)?.[1] ?? "");
  }
  for (const [name, value] of Object.entries(typed)) fields.set(name, value);
  const answer = await fetch(new URL(/action="([^"]+)"/.exec(html)![1]!, url), {
    method: "POST",
    body: fields,
    headers: { cookie: page.headers.getSetCookie().map((line) => line.split(";")[0]).join("; ") },
  });
  await answer.body?.cancel();
  return answer.status;
}

Deno.test("uc login prints an address and a code, and goes on when the person has decided in a browser", async () => {
  await using desk = await Desk.openIam();
  await Deno.writeTextFile(`${desk.dir}/pw`, password, { mode: 0o600 });
  await desk.ok("org", "create", "acme");
  await desk.ok("user", "create", "ada", "--org", "acme", "--password-file", `${desk.dir}/pw`);
  await desk.ok("logout");
  const ada = { org: "acme", user: "ada", password };
  const login = (then: (url: string) => void, signal?: AbortSignal) => {
    let asked = false;
    return desk.uc(["login"], signal, ({ err }) => {
      const url = /Open (\S+) in a browser and check that it shows the code [B-Z]{4}-[B-Z]{4}\n/.exec(err)?.[1];
      if (url === undefined || asked) return;
      asked = true;
      then(url);
    });
  };
  const stop = new AbortController();
  const pages: Promise<number>[] = [];
  // All three wait for the same five seconds between questions.
  const [refused, stopped, { code, err }] = await Promise.all([
    login((url) => pages.push(decide(url, { ...ada, decision: "deny" }))),
    login(() => stop.abort(), stop.signal),
    login((url) => pages.push(decide(url, ada))),
  ]);
  assert.deepEqual([refused.code, stopped.code], [4, 130], refused.err + stopped.err);
  assert.match(refused.err, /error\[login_refused\]: Cannot log in: .*the person refused/);
  assert.deepEqual(await Promise.all(pages), [200, 200]);
  assert.equal(code, 0, err);
  assert.match(err, /Logged in to test as acme\/ada\n$/);
  assert.match(await desk.ok("whoami"), /acme\/ada/);
});

Deno.test("passwords are changed and reset, roles and accounts are changed in place", async () => {
  await using desk = await Desk.openIam();
  const ok = desk.ok.bind(desk);
  const json = async (...words: string[]) => JSON.parse(await ok(...words, "-o", "json"));
  const file = async (name: string, text: string) => {
    await Deno.writeTextFile(`${desk.dir}/${name}`, text, { mode: 0o600 });
    return `${desk.dir}/${name}`;
  };
  const old = await file("old", `${password}\n`);
  const fresh = await file("new", `${newPassword}\n`);
  await ok("org", "create", "acme");
  const org = await json("org", "update", "acme", "--display-name", "Acme", "--label", "tier=one");
  assert.deepEqual([org.displayName, org.meta.labels], ["Acme", { tier: "one" }]);
  await desk.fails(2, ["org", "update", "acme"], /Cannot change nothing/);
  await ok("project", "create", "acme/prod");
  await ok("user", "create", "ada", "--org", "acme", "--password-file", old);
  assert.equal((await json("user", "update", "ada", "--org", "acme", "--email", "a@b.c")).email, "a@b.c");

  const ada = ["--org", "acme", "--user", "ada", "--password-file"];
  const admin = await Deno.readTextFile(`${desk.dir}/uc.json`);
  await ok("login", ...ada, old);
  const change = (
    from: string,
    to: string,
  ) => ["user", "change-password", "--password-file", from, "--new-password-file", to];
  await desk.fails(4, change(fresh, fresh), /^error\[wrong_password\]/);
  await desk.fails(2, change(old, await file("short", "x")), /^error\[invalid_password\].*\nfield: newPassword/);
  await desk.fails(2, ["user", "change-password"], /^error\[no_secret\]/);
  await ok(...change(old, fresh));
  assert.match(await ok("whoami"), /acme\/ada/);
  await desk.fails(4, ["login", ...ada, old], /^error\[login_failed\]/);

  await Deno.writeTextFile(`${desk.dir}/uc.json`, admin);
  const reset = ["user", "reset-password", "ada", "--org", "acme"];
  await desk.fails(2, [...reset, "--password-file", old], /wanted --yes/);
  await ok(...reset, "--password-file", old, "--yes");
  await desk.fails(2, [...reset, "--none", "--password-file", old, "--yes"], /wanted --password-file or --none/);
  await desk.fails(4, ["login", ...ada, fresh], /^error\[login_failed\]/);

  await ok("role", "create", "reader", "--org", "acme", "--permission", "iam.project.get");
  const role = await json("role", "update", "reader", "--org", "acme", "--permission", "*.*.get");
  assert.deepEqual(role.permissions, ["*.*.get"]);
  await ok("service-account", "create", "ci");
  assert.equal((await json("service-account", "disable", "ci", "--yes")).disabled, true);
  assert.equal((await json("service-account", "enable", "ci")).disabled, false);
});
