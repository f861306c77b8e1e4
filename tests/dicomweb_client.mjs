// Every verb of the npm package dicomweb-client, with dcmjs as the reader of what comes:
// node dicomweb_client.mjs TASK.json ANSWERS.json
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
globalThis.XMLHttpRequest = require('xhr2');
const { api } = require('dicomweb-client');
const { data } = require('dcmjs');

const { DicomMessage, DicomMetaDictionary } = data;
const task = JSON.parse(readFileSync(process.argv[2]));
const client = new api.DICOMwebClient({ url: `${task.root}/dicom-web`, errorInterceptor: () => {} });
const { study, series, image } = task;
const studyInstanceUID = study;
const seriesInstanceUID = series;
const all = { studyInstanceUID, seriesInstanceUID, sopInstanceUID: image };
const encoded = { ...task.encoded };

const buffer = path => {
  const bytes = readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
};
const digest = bytes => createHash('sha256').update(new Uint8Array(bytes)).digest('hex');
const digests = parts => parts.map(digest);
// The first bytes tell what kind of picture it is.
const begin = bytes => Buffer.from(bytes).subarray(0, 4).toString('latin1');
const natural = metadata => metadata.map(each => DicomMetaDictionary.naturalizeDataset(each));
const described = ds => ({
  uid: ds.SOPInstanceUID,
  name: ds.PatientName?.[0]?.Alphabetic ?? ds.PatientName,
  modality: ds.Modality,
  rows: ds.Rows,
  number: ds.InstanceNumber,
  imageType: ds.ImageType,
});
const read = bytes => {
  const file = DicomMessage.readFile(bytes);
  const ds = DicomMetaDictionary.naturalizeDataset(file.dict);
  return { ...described(ds), pixels: digest([].concat(ds.PixelData)[0]), syntax: file.meta['00020010'].Value[0] };
};

const verbs = {
  storeInstances: () => client.storeInstances({ datasets: task.files.map(buffer) }),
  storeInstancesOfAStudy: () => client.storeInstances({ datasets: [buffer(task.other)], studyInstanceUID: task.otherStudy }),
  searchForStudies: () => client.searchForStudies({ queryParams: { PatientID: task.patient, limit: 5 } }),
  searchForSeries: () => client.searchForSeries({ studyInstanceUID }),
  searchForAllSeries: () => client.searchForSeries({ queryParams: { PatientID: task.patient } }),
  searchForInstances: () => client.searchForInstances({ studyInstanceUID, seriesInstanceUID }),
  searchForInstancesOfAStudy: () => client.searchForInstances({ studyInstanceUID }),
  searchForAllInstances: () => client.searchForInstances({ queryParams: { PatientID: task.patient } }),
  searchForNothing: () => client.searchForStudies({ queryParams: { PatientID: 'nobody' } }),
  retrieveStudyMetadata: async () => natural(await client.retrieveStudyMetadata({ studyInstanceUID })).map(described),
  retrieveSeriesMetadata: async () => natural(await client.retrieveSeriesMetadata(all)).map(described),
  retrieveInstanceMetadata: async () => natural(await client.retrieveInstanceMetadata(all)).map(described),
  // dcmjs makes of what it read a data set again, which has to be the same one.
  denaturalized: async () => {
    const [metadata] = await client.retrieveInstanceMetadata(all);
    const again = DicomMetaDictionary.denaturalizeDataset(DicomMetaDictionary.naturalizeDataset(metadata));
    return [metadata, again];
  },
  retrieveStudy: async () => (await client.retrieveStudy({ studyInstanceUID })).map(read),
  retrieveSeries: async () => (await client.retrieveSeries(all)).map(read),
  retrieveInstance: async () => read(await client.retrieveInstance(all)),
  retrieveCompressedInstance: async () => read(await client.retrieveInstance(encoded)),
  retrieveInstanceFrames: async () => digests(await client.retrieveInstanceFrames({ ...all, frameNumbers: [1] })),
  retrieveFramesInTheirMediaType: async () =>
    digests(
      await client.retrieveInstanceFrames({
        ...encoded,
        frameNumbers: [2, 1],
        mediaTypes: [{ mediaType: 'image/jls', transferSyntaxUID: task.encodedSyntax }],
      }),
    ),
  retrieveFramesByAnOldMediaType: async () =>
    digests(
      await client.retrieveInstanceFrames({
        ...encoded,
        frameNumbers: [1],
        mediaTypes: [{ mediaType: 'image/x-jls', transferSyntaxUID: task.encodedSyntax }],
      }),
    ),
  retrieveFramesInAnyMediaType: async () =>
    digests(
      await client.retrieveInstanceFrames({
        ...encoded,
        frameNumbers: [1],
        mediaTypes: [
          { mediaType: 'image/jls', transferSyntaxUID: task.encodedSyntax },
          { mediaType: 'application/octet-stream', transferSyntaxUID: '1.2.840.10008.1.2.1' },
        ],
      }),
    ),
  retrieveBulkData: async () => {
    const [metadata] = await client.retrieveInstanceMetadata(all);
    return digests(await client.retrieveBulkData({ BulkDataURI: metadata['7FE00010'].BulkDataURI }));
  },
  retrieveBulkDataByItself: async () => {
    const [metadata] = await client.retrieveInstanceMetadata(all);
    const single = new api.DICOMwebClient({ url: client.baseURL, singlepart: 'bulkdata' });
    return digests(await single.retrieveBulkData({ BulkDataURI: metadata['7FE00010'].BulkDataURI }));
  },
  retrieveInstanceRendered: async () => (await client.retrieveInstanceRendered(all)).map(begin),
  retrieveInstanceRenderedAsPNG: async () =>
    (await client.retrieveInstanceRendered({ ...all, mediaTypes: [{ mediaType: 'image/png' }] })).map(begin),
  retrieveInstanceThumbnail: async () => (await client.retrieveInstanceThumbnail(all)).map(begin),
  retrieveInstanceFramesRendered: async () =>
    (
      await client.retrieveInstanceFramesRendered({
        ...encoded,
        frameNumbers: [2],
        mediaTypes: [{ mediaType: 'image/jpeg' }],
        queryParams: { quality: 50 },
      })
    ).map(begin),
  retrieveInstanceFramesThumbnail: async () =>
    (await client.retrieveInstanceFramesThumbnail({ ...encoded, frameNumbers: [1] })).map(begin),
  buildInstanceWadoURIUrl: async () => {
    const wado = new api.DICOMwebClient({ url: `${task.root}/wado` });
    const answer = await fetch(wado.buildInstanceWadoURIUrl(all));
    return read(await answer.arrayBuffer());
  },
  refused: () => client.retrieveInstance({ ...all, sopInstanceUID: '1.2.3' }),
};

const answers = {};
for (const [name, verb] of Object.entries(verbs)) {
  try {
    answers[name] = await verb();
  } catch (error) {
    answers[name] = { error: error.message, status: error.status };
  }
}
writeFileSync(process.argv[3], JSON.stringify(answers));
