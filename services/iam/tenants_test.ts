import assert from "node:assert/strict";
import { codeOf, password, world } from "./test_world.ts";

Deno.test("the administrator makes organisations and projects; a name is free only once", async () => {
  await using w = await world();
  const { orgs, projects } = await w.admin();
  const org = await orgs.createOrg({ name: "acme", displayName: "Acme" });
  assert.match(org.meta!.id, /^org_/);
  assert.equal((await orgs.getOrg({ org: org.meta!.id })).meta!.name, "acme");
  const project = await projects.createProject({ org: "acme", name: "prod" });
  assert.equal(project.meta!.project, "acme");
  assert.equal(await codeOf(orgs.createOrg({ name: "acme" })), "already_exists/org_exists");
  assert.equal(await codeOf(orgs.createOrg({ name: "Acme!" })), "invalid_argument/invalid_name");
  const changed = await projects.updateProject({
    project: "acme/prod",
    value: { displayName: "Production" },
    updateMask: { paths: ["display_name"] },
    etag: project.meta!.etag,
  });
  assert.equal(changed.displayName, "Production");
  assert.equal(
    await codeOf(projects.updateProject({ project: "acme/prod", value: {}, etag: project.meta!.etag })),
    "aborted/etag_mismatch",
  );
  assert.equal(await codeOf(orgs.deleteOrg({ org: "acme" })), "failed_precondition/org_not_empty");
  await projects.deleteProject({ project: "acme/prod" });
  await orgs.deleteOrg({ org: "acme" });
  assert.equal(await codeOf(orgs.getOrg({ org: "acme" })), "not_found/org_not_found");
});

Deno.test("a tenant sees its own organisation; another one is not found, existing or not", async () => {
  await using w = await world();
  const root = await w.admin();
  for (const name of ["acme", "other"]) {
    await root.orgs.createOrg({ name });
    await root.projects.createProject({ org: name, name: "prod" });
  }
  const alice = await w.user("acme", "alice", { acme: "admin" });
  assert.equal((await alice.orgs.getOrg({ org: "acme" })).meta!.name, "acme");
  assert.deepEqual((await alice.orgs.listOrgs({})).orgs.map((o) => o.meta!.name), ["acme"]);
  assert.deepEqual((await alice.projects.listProjects({ org: "acme" })).projects.map((p) => p.meta!.name), ["prod"]);
  for (const org of ["other", "absent"]) {
    assert.match(await codeOf(alice.orgs.getOrg({ org })), /^not_found/);
    assert.match(await codeOf(alice.orgs.deleteOrg({ org })), /^not_found/);
    assert.match(await codeOf(alice.projects.listProjects({ org })), /^not_found/);
    assert.match(await codeOf(alice.projects.getProject({ project: `${org}/prod` })), /^not_found/);
    assert.match(await codeOf(alice.users.listUsers({ org })), /^not_found/);
    assert.match(await codeOf(alice.users.createUser({ org, name: "mole" })), /^not_found/);
    assert.match(await codeOf(alice.roles.listBindings({ scope: org })), /^not_found/);
    assert.match(await codeOf(alice.accounts.listServiceAccounts({ project: `${org}/prod` })), /^not_found/);
  }
  assert.equal(await codeOf(alice.orgs.createOrg({ name: "mine" })), "permission_denied/permission_denied");
});

Deno.test("who has only a project sees it in lists, and nothing of the rest", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  for (const name of ["prod", "test"]) await root.projects.createProject({ org: "acme", name });
  const bob = await w.user("acme", "bob", { "acme/prod": "viewer" });
  assert.deepEqual((await bob.orgs.listOrgs({})).orgs.map((o) => o.meta!.name), ["acme"]);
  assert.deepEqual((await bob.projects.listProjects({ org: "acme" })).projects.map((p) => p.meta!.name), ["prod"]);
  assert.match(await codeOf(bob.projects.getProject({ project: "acme/test" })), /^not_found/);
  assert.equal(
    await codeOf(bob.projects.deleteProject({ project: "acme/prod" })),
    "permission_denied/permission_denied",
  );
});

Deno.test("a call without credentials is refused everywhere but at the doors", async () => {
  await using w = await world();
  const nobody = w.as("");
  assert.equal(await codeOf(nobody.orgs.listOrgs({})), "unauthenticated/unauthenticated");
  assert.equal(await codeOf(nobody.tokens.whoAmI({})), "unauthenticated/unauthenticated");
  assert.equal(
    await codeOf(nobody.tokens.bootstrapToken({ adminToken: "wrong" })),
    "unauthenticated/admin_token_refused",
  );
});

Deno.test("a project of the same name made later gives nobody what the old one gave", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const bob = await w.user("acme", "bob", { "acme/prod": "admin" });
  await root.roles.createBinding({ scope: "acme/prod/plasmavmc/vm/web", role: "viewer", principal: bob.principal });
  await root.projects.deleteProject({ project: "acme/prod" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  assert.match(await codeOf(bob.projects.getProject({ project: "acme/prod" })), /^not_found/);
  assert.deepEqual((await bob.tokens.whoAmI({})).bindings, []);
});

Deno.test("CreateUser() answers again for the same key, and refuses another password under it", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const headers = { "idempotency-key": "k1" };
  const ask = { org: "acme", name: "eve", password };
  const made = await root.users.createUser(ask, { headers });
  assert.equal((await root.users.createUser(ask, { headers })).meta!.id, made.meta!.id);
  assert.equal(
    await codeOf(root.users.createUser({ ...ask, password: "another password" }, { headers })),
    "already_exists/idempotency_mismatch",
  );
  assert.equal(
    await codeOf(root.users.createUser({ ...ask, name: "short", password: "short" })),
    "invalid_argument/invalid_password",
  );
});
