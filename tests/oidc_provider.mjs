// An OpenID Connect provider for tests: node oidc_provider.mjs PORT REDIRECT_URI, with the package oidc-provider.
import Provider from 'oidc-provider';

const [, , port, redirect] = process.argv;
const ROLES = { anna: ['radiologist', 'staff'], bert: ['staff'], chef: ['pacs-admin'] };
const issuer = `http://localhost:${port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'pacs',
      client_secret: 'a secret: with / special & characters',
      redirect_uris: [redirect],
    },
    {
      client_id: 'robot: with / special',
      client_secret: 'a secret: with / special & characters',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  scopes: ['dicomweb.write'],
  features: { clientCredentials: { enabled: true } },
  claims: { openid: ['sub'], profile: ['preferred_username', 'realm_access'], email: ['email'] },
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, preferred_username: id, realm_access: { roles: ROLES[id] ?? [] } }),
  }),
  pkce: { required: () => true },
});
provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));
