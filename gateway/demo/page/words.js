// What the page says, in English and in Japanese; chosen by the browser's languages, and by the switch.

const KEPT_AS = "kakitome-demo-language";

const WORDS = {
  en: {
    title: "Kakitome 書留: demonstration",
    lead: "Join, then break it.",
    leadMore: "Cut the connection or stall the service while you write: nothing is lost, nothing comes twice, and each message shows how far it provably got.",
    chat: "Chat",
    chatAbout: "What one tab sends, all tabs get. Open this page in a second tab to see both ends.",
    here: (names) => `Here: ${names.join(", ")}.`,
    yourName: "Your name",
    join: "Join",
    leave: "Leave",
    send: "Send",
    message: "Message",
    messageToRoom: "Message to the room",
    messagesInRoom: "Messages in the room",
    trouble: "Break it",
    cut: "Cut the connection",
    mend: "Mend the connection",
    stall: "Stall the service",
    joinedAs: (name) => `You joined as ${name}`,
    joined: (name) => `${name} joined`,
    left: (name) => `${name} left`,
    youLeft: "You left",
    ago: (name, seconds) => `${name}, ${seconds} s ago`,
    stalled: (seconds) => `The service takes nothing from you for ${seconds} s`,
    isCut: "Connection cut: write on, your messages wait",
    isMended: "Connection mended",
    resumed: (waiting, again, twice) => `Back: ${waiting} of your messages had waited, ${again} were sent again, ${twice} came twice and were dropped`,
    hello: "Hello",
    helloAbout: "Greets, and answers each text with a pong.",
    textForHello: "Text for hello",
    helloLog: "Conversation with hello",
    saySomething: "Say something",
    doyasa: "Press the seal",
    doyasaAbout: "The service answers each press with one of its own, and counts.",
    pressTheSeal: "Press the seal: doyasa",
    answered: (number) => `answered: no. ${number}`,
    echo: "A service that knows nothing of Kakitome",
    echoAbout: "A plain TCP echo, unmodified. What Kakitome can prove of it ends at reached; beside it, what a WebSocket through nginx would have told you.",
    echoLog: "Texts to the plain service, and what is known of each",
    textForEcho: "Text for the plain service",
    yourText: "Your text",
    kakitomeTold: "Kakitome",
    nginxTold: "nginx",
    nginxSent: "send() returned. Nothing more, ever.",
    nginxLost: "The connection has ended: 1006. Lost, and you are not told which texts.",
    echoed: "came back",
    connecting: "connecting",
    open: "online",
    parked: "offline",
    nextTry: (seconds) => `offline, next try in ${seconds} s`,
    reconnecting: "offline, trying now",
    closing: "ending",
    closed: (code, reason) => `ended: ${code} ${reason}`.trim(),
    away: "not joined",
    again: "Begin again",
    waiting: "waiting here",
    accepted: "accepted",
    written: "written",
    reached: "reached",
    consumed: "consumed",
    acceptedIs: "the gateway has it",
    writtenIs: "sent on to the service",
    reachedIs: "its host has it",
    consumedIs: "the service is done with it",
    legend: "How far a message got",
    within: (rung, time) => `${rung} in ${time}`,
    Lost: "nobody can say whether it arrived",
    NeverForwarded: "it did not arrive",
    Closed: "not sent: the conversation had ended",
    refused: (why) => `refused: ${why}`,
    gatewayAway: "The gateway does not answer.",
    gatewayAwayMore: "Write on: what you write is kept in this tab and goes when it is back.",
    tryNow: "Try now",
    terminal: "From a terminal:",
    language: "日本語で表示",
  },
  ja: {
    title: "Kakitome 書留：デモ",
    lead: "参加して、壊してみてください。",
    leadMore: "書いている途中で接続を切っても、サービスを止めても、何も失われず、二重にも届きません。どこまで届いたかが一通ごとに分かります。",
    chat: "チャット",
    chatAbout: "一つのタブで送ると、すべてのタブに届きます。別のタブでも開くと両側が見えます。",
    here: (names) => `参加者：${names.join("、")}`,
    yourName: "お名前",
    join: "参加",
    leave: "退出",
    send: "送信",
    message: "メッセージ",
    messageToRoom: "チャットへのメッセージ",
    messagesInRoom: "チャットのメッセージ",
    trouble: "壊してみる",
    cut: "接続を切る",
    mend: "接続を戻す",
    stall: "サービスを止める",
    joinedAs: (name) => `${name} として参加しました`,
    joined: (name) => `${name} さんが参加しました`,
    left: (name) => `${name} さんが退出しました`,
    youLeft: "退出しました",
    ago: (name, seconds) => `${name}（${seconds} 秒前）`,
    stalled: (seconds) => `サービスは ${seconds} 秒間、あなたから何も受け取りません`,
    isCut: "接続を切りました。書き続けられます。メッセージはここで待ちます",
    isMended: "接続を戻しました",
    resumed: (waiting, again, twice) => `再開しました。待っていたもの ${waiting} 通、送り直したもの ${again} 通、重複して捨てたもの ${twice} 通`,
    hello: "あいさつ",
    helloAbout: "あいさつをして、送った文に pong と答えます。",
    textForHello: "hello への文",
    helloLog: "hello とのやりとり",
    saySomething: "何か書いてください",
    doyasa: "印を押す",
    doyasaAbout: "押すたびにサービスが押し返し、回数を数えます。",
    pressTheSeal: "印を押す：どやさ",
    answered: (number) => `返事：${number}回目`,
    echo: "Kakitome を知らないサービス",
    echoAbout: "手を加えていない普通の TCP エコーです。証明できるのは「到達」まで。隣は、nginx 経由の WebSocket なら何が分かったかです。",
    echoLog: "普通のサービスへの文と、その行方",
    textForEcho: "普通のサービスへの文",
    yourText: "送った文",
    kakitomeTold: "Kakitome",
    nginxTold: "nginx",
    nginxSent: "send() が戻った。それだけです。",
    nginxLost: "接続終了 1006。失われ、どの文かも分かりません。",
    echoed: "返ってきました",
    connecting: "接続中",
    open: "オンライン",
    parked: "切断中",
    nextTry: (seconds) => `切断中、${seconds}秒後に再試行`,
    reconnecting: "切断中、再試行中",
    closing: "終了中",
    closed: (code, reason) => `終了：${code} ${reason}`.trim(),
    away: "未参加",
    again: "もう一度始める",
    waiting: "ここで待機",
    accepted: "受付",
    written: "発送",
    reached: "到達",
    consumed: "処理済",
    acceptedIs: "ゲートウェイが受け取った",
    writtenIs: "サービスへ送り出した",
    reachedIs: "サービスのホストに届いた",
    consumedIs: "サービスが処理を終えた",
    legend: "メッセージがどこまで届いたか",
    within: (rung, time) => `${rung}（${time}）`,
    Lost: "届いたかどうか分かりません",
    NeverForwarded: "届いていません",
    Closed: "送られていません（終了後）",
    refused: (why) => `拒否：${why}`,
    gatewayAway: "ゲートウェイが応答しません。",
    gatewayAwayMore: "そのまま書き続けられます。このタブに保管し、戻りしだい送ります。",
    tryNow: "今すぐ試す",
    terminal: "端末から：",
    language: "Show in English",
  },
};

/** The language kept from an earlier visit, else the first of the browser's that there is. */
function preferred() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT_AS);
  } catch {
    // A page without storage is asked again next time.
  }
  const wanted = [kept, ...navigator.languages].map((tag) => tag?.slice(0, 2).toLowerCase());
  return wanted.find((tag) => Object.hasOwn(WORDS, tag)) ?? "en";
}

let language = preferred();
/** What shows words, by what it shows them in: called anew when the language changes. */
const shown = new Map();

/** The words of that name, in the language of the page. */
export function words(name, ...facts) {
  const found = WORDS[language][name];
  return typeof found === "function" ? found(...facts) : found;
}

/** Calls `render` now, and whenever the language has changed, as long as `node` is in the document. */
export function inWords(node, render) {
  shown.set(node, render);
  render();
}

/** Each `data-words` names its text; `data-words-ATTRIBUTE` that of an attribute. */
function showPage() {
  document.documentElement.lang = language;
  document.title = words("title");
  for (const node of document.querySelectorAll("[data-words]")) node.textContent = words(node.dataset.words);
  for (const attribute of ["placeholder", "aria-label"]) {
    for (const node of document.querySelectorAll(`[data-words-${attribute}]`)) {
      node.setAttribute(attribute, words(node.getAttribute(`data-words-${attribute}`)));
    }
  }
}

/** Shows the page in its language, and lets the button switch it. */
export function speak(button) {
  showPage();
  button.addEventListener("click", () => {
    language = language === "en" ? "ja" : "en";
    try {
      localStorage.setItem(KEPT_AS, language);
    } catch {
      // As above.
    }
    showPage();
    for (const [node, render] of shown) {
      if (node.isConnected) render();
      else shown.delete(node);
    }
  });
}

/** Both tables, for the test that neither lacks what the other has. */
export const TABLES = WORDS;
