// A browser starts no worker from a file:// page, and the search runs in one. Here a hidden frame takes the
// worker's place, so that the site can be read from a folder. Pages from a server keep the browser's own workers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      inner.document.open()
      inner.document.write(`<script>
        postMessage = (data) => parent.dispatchEvent(new CustomEvent("frame-message", { detail: data }))
      </script><body><script src="${url}"></script></body>`)
      inner.document.close()
      this.ready = new Promise((done) => this.frame.addEventListener("load", done, { once: true }))
      addEventListener("frame-message", (event) => {
        const message = new MessageEvent("message", { data: event.detail })
        this.onmessage?.(message)
        this.dispatchEvent(message)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
