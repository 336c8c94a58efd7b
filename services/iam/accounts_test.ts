import assert from "node:assert/strict";
import { codeOf, password, world } from "./test_world.ts";

const newPassword = "another correct horse";

async function acme(options: Parameters<typeof world>[0] = {}) {
  const w = await world(options);
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const login = (user: string, word: string) => w.as("").tokens.login({ org: "acme", user, password: word });
  return { w, root, login, [Symbol.asyncDispose]: () => w[Symbol.asyncDispose]() };
}

Deno.test("ChangePassword() takes who knows the old one, ends every older login and answers a new one", async () => {
  await using o = await acme();
  const { w, login } = o;
  const alice = await w.user("acme", "alice", { acme: "viewer" });
  const elsewhere = await login("alice", password);
  const change = (word: string, fresh = newPassword) =>
    alice.users.changePassword({ password: word, newPassword: fresh });
  assert.equal(await codeOf(change("wrong")), "permission_denied/wrong_password");
  assert.equal(await codeOf(change(password, "short")), "invalid_argument/invalid_password");
  const answer = await change(password);
  assert.equal((await w.as(answer.accessToken).tokens.whoAmI({})).principal, alice.principal);
  const { accessToken } = await w.as("").tokens.refresh({ refreshToken: answer.refreshToken });
  assert.equal(await codeOf(w.as(accessToken).tokens.whoAmI({})), "ok");
  assert.equal(await codeOf(alice.tokens.whoAmI({})), "unauthenticated/token_revoked");
  assert.equal(await codeOf(w.as(elsewhere.accessToken).tokens.whoAmI({})), "unauthenticated/token_revoked");
  assert.equal(
    await codeOf(w.as("").tokens.refresh({ refreshToken: elsewhere.refreshToken })),
    "unauthenticated/refresh_refused",
  );
  assert.equal(await codeOf(login("alice", password)), "unauthenticated/login_failed");
  assert.equal(await codeOf(login("alice", newPassword)), "ok");
  const said = w.lines.join("\n");
  assert.ok(!said.includes(password) && !said.includes(newPassword), "a log line holds a password");
});

Deno.test("ChangePassword() brakes who guesses the old one, and is nothing for programs", async () => {
  await using o = await acme({ stillClock: true });
  const { w, root } = o;
  const alice = await w.user("acme", "alice", { acme: "viewer" });
  const guess = (word: string) => codeOf(alice.users.changePassword({ password: word, newPassword }));
  for (let i = 0; i < 3; i++) assert.equal(await guess(`guess ${i}`), "permission_denied/wrong_password");
  assert.equal(await guess(password), "resource_exhausted/login_slowed");
  const account = { project: "acme/prod", serviceAccount: "ci" };
  await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const { key, secret } = await root.accounts.createApiKey(account);
  const { accessToken } = await w.as("").tokens.exchangeApiKey({ keyId: key!.id, secret });
  assert.equal(
    await codeOf(w.as(accessToken).users.changePassword({ password, newPassword })),
    "failed_precondition/no_password",
  );
});

Deno.test("SetUserPassword() is for who holds all that the user is allowed, and ends every login", async () => {
  await using o = await acme();
  const { w, root, login } = o;
  await root.roles.createRole({ org: "acme", name: "helpdesk", permissions: ["iam.user.*", "*.*.get", "*.*.list"] });
  const helper = await w.user("acme", "helper", { acme: "helpdesk" });
  const boss = await w.user("acme", "boss", { acme: "admin" });
  await root.roles.createRole({ org: "acme", name: "looker", permissions: ["*.*.get"] });
  const bob = await w.user("acme", "bob", { "acme/prod": "looker" });
  const set = (user: string, word: string) => helper.users.setUserPassword({ org: "acme", user, password: word });
  assert.equal(await codeOf(set("boss", newPassword)), "permission_denied/escalation_refused");
  assert.equal(await codeOf(boss.tokens.whoAmI({})), "ok");
  assert.equal(await codeOf(set("bob", "short")), "invalid_argument/invalid_password");
  assert.match(await codeOf(set("nobody", newPassword)), /^not_found/);
  await set("bob", newPassword);
  assert.equal(await codeOf(bob.tokens.whoAmI({})), "unauthenticated/token_revoked");
  assert.equal(await codeOf(login("bob", password)), "unauthenticated/login_failed");
  assert.equal(await codeOf(login("bob", newPassword)), "ok");
  await set("bob", "");
  assert.equal(await codeOf(login("bob", newPassword)), "unauthenticated/login_failed");
});

Deno.test("UpdateUser() and UpdateOrg() change what the mask names, unless somebody was faster", async () => {
  await using o = await acme();
  const { w, root } = o;
  await w.user("acme", "alice");
  const at = { org: "acme", user: "alice" };
  const { meta } = await root.users.getUser(at);
  const changed = await root.users.updateUser({ ...at, etag: meta!.etag, value: { email: "a@example.com" } });
  assert.equal(changed.email, "a@example.com");
  assert.equal(
    await codeOf(root.users.updateUser({ ...at, etag: meta!.etag, value: { email: "b@example.com" } })),
    "aborted/etag_mismatch",
  );
  assert.equal(await codeOf(root.users.updateUser({ ...at, value: { email: "x" } })), "invalid_argument/invalid_field");
  assert.equal(
    await codeOf(root.users.updateUser({ ...at, updateMask: { paths: ["disabled"] } })),
    "invalid_argument/invalid_field",
  );
  const org = await root.orgs.updateOrg({
    org: "acme",
    value: { displayName: "Acme", meta: { labels: { tier: "gold" } } },
    updateMask: { paths: ["display_name"] },
  });
  assert.deepEqual([org.displayName, org.meta!.labels], ["Acme", {}]);
});

Deno.test("SetServiceAccountDisabled() ends tokens and keys until the account is enabled", async () => {
  await using o = await acme();
  const { w, root } = o;
  const account = { project: "acme/prod", serviceAccount: "ci" };
  const { meta } = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const principal = `service_account:${meta!.id}`;
  await root.roles.createBinding({ scope: "acme/prod", role: "viewer", principal });
  const { key, secret } = await root.accounts.createApiKey(account);
  const exchange = () => w.as("").tokens.exchangeApiKey({ keyId: key!.id, secret });
  const { accessToken } = await exchange();
  assert.equal((await root.accounts.setServiceAccountDisabled({ ...account, disabled: true })).disabled, true);
  assert.equal(await codeOf(w.as(accessToken).tokens.whoAmI({})), "unauthenticated/token_revoked");
  assert.equal(await codeOf(exchange()), "unauthenticated/api_key_refused");
  await root.accounts.setServiceAccountDisabled({ ...account, disabled: false });
  assert.equal(await codeOf(w.as((await exchange()).accessToken).tokens.whoAmI({})), "ok");
});

Deno.test("UpdateRole() counts for everybody bound to it, and gives or lifts only what the caller holds", async () => {
  await using o = await acme();
  const { w, root } = o;
  await root.roles.createRole({ org: "acme", name: "reader", permissions: ["iam.project.get"] });
  await root.roles.createRole({
    org: "acme",
    name: "roles",
    permissions: ["iam.role.*", "iam.project.get", "iam.project.list"],
  });
  const bob = await w.user("acme", "bob", { acme: "reader" });
  const carol = await w.user("acme", "carol", { acme: "roles" });
  const update = (who: typeof carol, permissions: string[], etag = "") =>
    who.roles.updateRole({ org: "acme", name: "reader", permissions, etag });
  assert.equal(
    await codeOf(update(carol, ["iam.project.get", "iam.user.list"])),
    "permission_denied/escalation_refused",
  );
  const { etag } = await update(carol, ["iam.project.list"]);
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "permission_denied/permission_denied");
  const widened = await root.roles.updateRole({ org: "acme", name: "reader", permissions: ["*.*.get"], etag });
  assert.deepEqual(widened.permissions, ["*.*.get"]);
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "ok");
  // What it has beyond the caller's own may be denied to somebody by it: taking it away would lift that.
  assert.equal(await codeOf(update(carol, ["iam.project.get"])), "permission_denied/escalation_refused");
  assert.equal(
    await codeOf(root.roles.updateRole({ org: "acme", name: "reader", permissions: ["a.b.c"], etag })),
    "aborted/etag_mismatch",
  );
  assert.match(
    await codeOf(root.roles.updateRole({ org: "acme", name: "admin", permissions: ["a.b.c"] })),
    /^not_found/,
  );
});

Deno.test("lists of roles, bindings, groups, programs and boundaries come in pages", async () => {
  await using o = await acme();
  const { w, root } = o;
  for (const name of ["a", "b", "c"]) {
    await root.roles.createRole({ org: "acme", name, permissions: ["iam.project.get"] });
    await root.groups.createGroup({ org: "acme", name });
    await root.clients.createOAuthClient({ org: "acme", name, redirectUris: ["https://app.example/cb"] });
    const { principal } = await w.user("acme", name, { acme: name });
    await root.boundaries.setBoundary({ org: "acme", principal, permissions: [`iam.${name}.get`] });
  }
  /** Names page by page, two at a time. */
  const read = async <R extends { page?: { nextPageToken: string } | undefined }>(
    list: (page: { pageSize: number; pageToken: string }) => Promise<R>,
    names: (answer: R) => string[],
  ) => {
    const told: string[][] = [];
    for (let pageToken = "";;) {
      const answer = await list({ pageSize: 2, pageToken });
      told.push(names(answer));
      pageToken = answer.page?.nextPageToken ?? "";
      if (pageToken === "") return told;
    }
  };
  const org = "acme";
  assert.deepEqual(
    await read(
      (page) => root.roles.listRoles({ org, page }),
      (r) => r.roles.filter((x) => !x.builtIn).map((x) => x.name),
    ),
    [["a", "b"], ["c"]],
  );
  assert.deepEqual(
    await read((page) => root.groups.listGroups({ org, page }), (r) => r.groups.map((g) => g.meta!.name)),
    [
      ["a", "b"],
      ["c"],
    ],
  );
  assert.deepEqual(
    await read((page) => root.clients.listOAuthClients({ org, page }), (r) => r.clients.map((c) => c.meta!.name)),
    [["a", "b"], ["c"]],
  );
  const bindings = await read(
    (page) => root.roles.listBindings({ scope: org, page }),
    (r) => r.bindings.map((b) => b.role),
  );
  assert.deepEqual([bindings.map((p) => p.length), bindings.flat().sort()], [[2, 1], ["a", "b", "c"]]);
  const most = await read(
    (page) => root.boundaries.listBoundaries({ org, page }),
    (r) => r.boundaries.flatMap((b) => b.permissions),
  );
  assert.deepEqual([most.map((p) => p.length), most.flat().sort()], [[2, 1], ["iam.a.get", "iam.b.get", "iam.c.get"]]);
  assert.deepEqual(
    (await root.roles.listBindings({ scope: org, page: { filter: ["role=b"] } })).bindings.map((b) => b.role),
    ["b"],
  );
  assert.equal(
    await codeOf(root.boundaries.listBoundaries({ org, page: { pageToken: "x" } })),
    "invalid_argument/invalid_page_token",
  );
});
