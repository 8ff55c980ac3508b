// The page knows commands and events, and nothing of syncing: what a command answers is shown, and shown again after each event.
const { invoke } = window.__TAURI__.core
const { listen } = window.__TAURI__.event
const at = (id) => document.getElementById(id)

let chosen
let showing
let again = false

/** Shows everything as it is now. What happens meanwhile has it shown once more. */
async function show() {
  again = true
  if (showing) return
  showing = true
  while (again) {
    again = false
    await showAll().catch((problem) => { at('status').textContent = problem })
  }
  showing = false
}

async function showAll() {
  const [status, conversations, refused] = await Promise.all([invoke('status'), invoke('conversations'), invoke('refused')])
  chosen = conversations.some(({ id }) => id === chosen) ? chosen : conversations.at(-1)?.id
  const messages = chosen ? await invoke('messages', { conversation: chosen }) : []
  showStatus(status)
  at('conversations').replaceChildren(...conversations.map(conversationItem))
  const { title = '', people = '' } = conversations.find(({ id }) => id === chosen) ?? {}
  at('title').textContent = title
  at('people').textContent = people
  at('messages').replaceChildren(...messages.map(messageItem))
  at('messages').scrollTop = at('messages').scrollHeight
  at('refused').replaceChildren(...refused.filter(({ conversation }) => conversation === chosen).map(refusedItem))
  await invoke('shown', { last: messages.at(-1)?.body ?? '' })
}

function showStatus({ state, live, waiting, error, user }) {
  const words = {
    idle: live ? 'Up to date, live' : 'Up to date', syncing: 'Syncing', offline: 'The server cannot be reached', refused: error, paused: 'Offline',
  }
  at('user').textContent = user ?? ''
  at('offline').checked = state === 'paused'
  at('status').textContent = words[state] + (waiting ? `, ${waiting} to be sent` : '')
  at('status').className = state === 'refused' ? 'bad' : waiting ? 'waiting' : live ? 'live' : ''
}

function conversationItem({ id, title, last }) {
  const item = element('li', id === chosen ? 'chosen' : '', element('b', '', title), element('span', '', last ?? ''))
  item.onclick = () => { chosen = id; show() }
  return item
}

function messageItem({ author, mine, body, sent_at, waiting }) {
  const time = new Date(sent_at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
  const below = waiting ? 'waiting to be sent' : mine ? time : `${author}, ${time}`
  return element('div', `message ${mine ? 'mine' : ''} ${waiting ? 'waiting' : ''}`, element('p', '', body), element('small', '', below))
}

function refusedItem({ id, body, message }) {
  const edit = element('button', '', 'Edit')
  edit.onclick = async () => { await invoke('discard', { refused: id }); at('body').value = body; at('body').focus() }
  const discard = element('button', '', 'Discard')
  discard.onclick = () => invoke('discard', { refused: id })
  return element('div', '', element('span', '', `Not accepted: “${body}”. ${message}`), edit, discard)
}

function element(name, className, ...content) {
  const made = document.createElement(name)
  made.className = className.trim()
  made.append(...content)
  return made
}

at('form').onsubmit = async (event) => {
  event.preventDefault()
  const body = at('body').value
  at('body').value = ''
  await invoke('send', { conversation: chosen, body }).catch((problem) => { at('body').value = body; at('status').textContent = problem })
}
at('offline').onchange = () => invoke('work_offline', { offline: at('offline').checked })

await listen('sync', show)
show()
