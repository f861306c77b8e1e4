// dcmjs-dimse as a peer: a Storage SCP from the start, and an SCU that does what each line of JSON from standard input
// asks for, and answers with a line. `node dcmjs_dimse.mjs PORT` listens on that port.

import dimse from 'dcmjs-dimse';
import { createInterface } from 'node:readline';

const { Client, Scp, Server, constants, log, requests, responses } = dimse;
const { PresentationContextResult, Status, TransferSyntax } = constants;
const AE_TITLE = 'NODE';
const TAKEN = [TransferSyntax.ExplicitVRLittleEndian, TransferSyntax.ImplicitVRLittleEndian];

log.setLevel('silent');

// What has come in: on associations of its own, and in answer to C-GET.
const received = [];
let echoed = 0;

function noted(request, association) {
  const dataset = request.getDataset();
  return {
    uid: dataset.getElement('SOPInstanceUID'),
    name: String(dataset.getElement('PatientName')),
    pixels: dataset.getElement('PixelData')[0].byteLength,
    syntax: dataset.getTransferSyntaxUid(),
    calling: association ? association.getCallingAeTitle() : '',
    called: association ? association.getCalledAeTitle() : '',
  };
}

function success(Response, request) {
  const response = Response.fromRequest(request);
  response.setStatus(Status.Success);
  return response;
}

class Peer extends Scp {
  associationRequested(association) {
    this.association = association;
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      const syntax = TAKEN.find((each) => context.getTransferSyntaxUids().includes(each));
      if (syntax) context.setResult(PresentationContextResult.Accept, syntax);
      else context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    echoed += 1;
    callback(success(responses.CEchoResponse, request));
  }

  cStoreRequest(request, callback) {
    received.push(noted(request, this.association));
    callback(success(responses.CStoreResponse, request));
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

// Send requests over one association; the last response to each.
function exchange({ port, called }, made) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    const found = made.map(() => ({ matches: [], stored: [] }));
    made.forEach((request, n) => {
      request.on('response', (response) => {
        if (response.getStatus() === Status.Pending && response.hasDataset?.()) {
          found[n].matches.push(response.getDataset().getElements());
        }
        found[n].status = response.getStatus();
        found[n].completed = response.getCompleted?.();
      });
      client.addRequest(request);
    });
    client.on('cStoreRequest', (request, callback) => {
      found[0].stored.push(noted(request));
      callback(success(responses.CStoreResponse, request));
    });
    client.on('associationRejected', (result) => reject(new Error(JSON.stringify(result))));
    client.on('networkError', reject);
    client.on('closed', () => resolve(found));
    client.send('127.0.0.1', port, AE_TITLE, called);
  });
}

const { CEchoRequest, CFindRequest, CGetRequest, CMoveRequest, CStoreRequest } = requests;
const verbs = {
  echo: (asked) => exchange(asked, [new CEchoRequest()]),
  store: (asked) => exchange(asked, asked.files.map((file) => new CStoreRequest(file))),
  findStudies: (asked) => exchange(asked, [CFindRequest.createStudyFindRequest(asked.keys)]),
  findSeries: (asked) => exchange(asked, [CFindRequest.createSeriesFindRequest(asked.keys)]),
  findImages: (asked) => exchange(asked, [CFindRequest.createImageFindRequest(asked.keys)]),
  get: (asked) => exchange(asked, [CGetRequest.createStudyGetRequest(asked.study)]),
  move: (asked) => exchange(asked, [CMoveRequest.createStudyMoveRequest(asked.to, asked.study)]),
  received: async () => ({ received, echoed }),
};

const server = new Server(Peer);
server.on('networkError', () => {});
server.listen(Number(process.argv[2]));
const lines = createInterface({ input: process.stdin });
process.stdout.write('{"ready": true}\n');
for await (const line of lines) {
  const asked = JSON.parse(line);
  let answer;
  try {
    answer = await verbs[asked.verb](asked);
  } catch (error) {
    answer = { error: String(error.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
server.close();
process.exit(0);
