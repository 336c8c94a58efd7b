import assert from "node:assert/strict";
import { adminToken, codeOf, type World, world } from "./test_world.ts";

/** Two organisations with a project and an administrator each. */
async function twoTenants(w: World) {
  const root = await w.admin();
  for (const name of ["acme", "rival"]) {
    await root.orgs.createOrg({ name });
    await root.projects.createProject({ org: name, name: "prod" });
    await root.accounts.createServiceAccount({ project: `${name}/prod`, name: "ci" });
  }
  const ann = await w.user("acme", "ann", { acme: "admin" });
  const bob = await w.user("rival", "bob", { rival: "admin" });
  return { root, ann, bob };
}

Deno.test("whatever a tenant asks about another organisation, it is not found", async () => {
  await using w = await world();
  const { root, ann, bob } = await twoTenants(w);
  const { principal } = bob;
  const rivalId = (await root.orgs.getOrg({ org: "rival" })).meta!.id;
  const binding = (await root.roles.listBindings({ scope: "rival" })).bindings[0]!;
  const at = { project: "rival/prod", serviceAccount: "ci" };
  const attempts: Record<string, Promise<unknown>> = {
    getOrgById: ann.orgs.getOrg({ org: rivalId }),
    deleteOrgById: ann.orgs.deleteOrg({ org: rivalId }),
    createProject: ann.projects.createProject({ org: "rival", name: "x" }),
    createProjectById: ann.projects.createProject({ org: rivalId, name: "x" }),
    updateProject: ann.projects.updateProject({ project: "rival/prod", value: { displayName: "mine" } }),
    deleteProject: ann.projects.deleteProject({ project: "rival/prod" }),
    getUser: ann.users.getUser({ org: "rival", user: "bob" }),
    getUserByIdHere: ann.users.getUser({ org: "acme", user: principal.slice("user:".length) }),
    disableUser: ann.users.setUserDisabled({ org: "rival", user: "bob", disabled: true }),
    deleteUser: ann.users.deleteUser({ org: "rival", user: "bob" }),
    getAccount: ann.accounts.getServiceAccount(at),
    deleteAccount: ann.accounts.deleteServiceAccount(at),
    createKey: ann.accounts.createApiKey(at),
    listKeys: ann.accounts.listApiKeys(at),
    createRole: ann.roles.createRole({ org: "rival", name: "x", permissions: ["a.b.c"] }),
    listRoles: ann.roles.listRoles({ org: "rival" }),
    bind: ann.roles.createBinding({ scope: "rival", principal: ann.principal, role: "viewer" }),
    bindVm: ann.roles.createBinding({ scope: "rival/prod/plasmavmc/vm/web", principal: ann.principal, role: "viewer" }),
    unbind: ann.roles.deleteBinding({ scope: "rival", id: binding.id }),
    unbindHere: ann.roles.deleteBinding({ scope: "acme", id: binding.id }),
    revoke: ann.tokens.revokeTokens({ org: "rival", principal }),
    revokeHere: ann.tokens.revokeTokens({ org: "acme", principal }),
  };
  for (const [what, attempt] of Object.entries(attempts)) assert.match(await codeOf(attempt), /^not_found\//, what);
  assert.equal(await codeOf(ann.users.listUsers({ org: "" })), "permission_denied/permission_denied");
  assert.equal(await codeOf(ann.roles.listBindings({ scope: "" })), "permission_denied/permission_denied");
  // Nothing of it had an effect.
  assert.equal((await bob.projects.getProject({ project: "rival/prod" })).displayName, "");
  assert.deepEqual((await bob.tokens.whoAmI({})).bindings.map((b) => b.scope), ["rival"]);
});

Deno.test("of two who refresh with one token at once one gets in, and the login is over for both", async () => {
  await using w = await world();
  const { tokens } = w.as("");
  const { refreshToken } = await tokens.bootstrapToken({ adminToken });
  const both = await Promise.allSettled([1, 2].map(() => tokens.refresh({ refreshToken })));
  const good = both.filter((result) => result.status === "fulfilled");
  assert.equal(good.length, 1);
  const next = tokens.refresh({ refreshToken: good[0]!.value.refreshToken });
  assert.equal(await codeOf(next), "unauthenticated/refresh_refused");
});

Deno.test("concurrent first bootstraps make one administrator", async () => {
  await using w = await world();
  const second = await w.replica();
  const answers = await Promise.all(
    Array.from({ length: 6 }, (_, i) => (i % 2 ? w : second).as("").tokens.bootstrapToken({ adminToken })),
  );
  assert.equal(new Set(answers.map((a) => a.principal)).size, 1);
  const root = w.as(answers[0]!.accessToken);
  assert.deepEqual((await root.users.listUsers({ org: "" })).users.map((u) => u.meta!.name), ["admin"]);
  assert.equal((await root.roles.listBindings({ scope: "" })).bindings.length, 1);
});
