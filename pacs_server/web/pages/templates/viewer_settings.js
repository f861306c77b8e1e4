console.time("scriptToView");
// The settings of the viewer: the archive is this server, and one gets here from its list of studies.
const place = new URL("./", document.currentScript.src).pathname;
const server = new URL("../", document.currentScript.src).href;
const archive = `${server}dicom-web`;

window.PUBLIC_URL = place;
window.browserImportFunction = (name) => import(name);

window.config = {
  name: "pacs-server",
  routerBasename: place.slice(0, -1),
  extensions: [],
  modes: [],
  customizationService: [{ "ohif.tours": { $set: [] } }],
  showStudyList: false,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  showErrorDetails: "production",
  maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 10 },
  whiteLabeling: {
    createLogoComponentFn: (React) => {
      const study = new URLSearchParams(location.search).get("StudyInstanceUIDs") ?? "";
      const href = /^[0-9.]+$/.test(study) ? `${server}studies/${study}` : `${server}studies`;
      return React.createElement("a", { href, className: "text-primary px-2 text-base" }, {{ ("← " ~ _("Studies"))|tojson }});
    },
  },
  defaultDataSourceName: "archive",
  dataSources: [
    {
      namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
      sourceName: "archive",
      configuration: {
        friendlyName: {{ archive|tojson }},
        name: "archive",
        qidoRoot: archive,
        wadoRoot: archive,
        wadoUriRoot: `${server}wado`,
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        supportsStow: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        imageRendering: "wadors",
        thumbnailRendering: "thumbnail",
        thumbnailRequestStrategy: "fetch",
        enableStudyLazyLoad: true,
        singlepart: "bulkdata,video,pdf",
        bulkDataURI: { enabled: true },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
  // A session that is over, or was never there: the server asks for a login, and leads back here.
  httpErrorHandler: (error) => {
    if (error?.status === 401) {
      location.reload();
    }
  },
};
