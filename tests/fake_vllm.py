"""An engine that behaves as vLLM 0.32's `LLMEngine` did when it was watched; what it draws for each
prompt is given to it.

It gives the new tokens of a row a step (`RequestOutputKind.DELTA`), the stop token among them; the
row's last output alone has a finish reason; an aborted row gives no further output; a name may come
again once its row has ended.
"""

from types import SimpleNamespace


class Renderer:
    def render_cmpl(self, prompts):
        return [SimpleNamespace(ids=prompt["prompt_token_ids"]) for prompt in prompts]


class FakeEngine:
    def __init__(self, written, n_a_step=1, n_rows=4, error=None):
        self.written = written
        self.n_a_step, self.n_rows, self.error = n_a_step, n_rows, error
        self.renderer, self.engine_core = Renderer(), self
        self.rows, self.parameters = {}, {}
        self.n_steps, self.is_shut = 0, False

    def add_request(self, name, prompt, parameters):
        assert name not in self.rows and isinstance(name, str)
        self.rows[name] = list(self.written[tuple(prompt.ids)])
        self.parameters[name] = {**parameters, "n": 0}

    def abort_request(self, names):
        for name in names:
            self.rows.pop(name, None)

    def step(self):
        self.n_steps += 1
        if self.error and self.n_steps == 3:
            raise self.error
        outputs = []
        for name in list(self.rows)[: self.n_rows]:
            asked, new, reason = self.parameters[name], [], None
            while len(new) < self.n_a_step and reason is None:
                new.append(self.rows[name].pop(0))
                asked["n"] += 1
                if new[-1] in asked["stop_token_ids"]:
                    reason = "stop"
                elif asked["n"] == asked["max_tokens"]:
                    reason = "length"
            if reason:
                del self.rows[name]
            completion = SimpleNamespace(index=0, text="", token_ids=new, finish_reason=reason)
            outputs.append(
                SimpleNamespace(request_id=name, outputs=[completion], finished=reason is not None)
            )
        return outputs

    def shutdown(self):
        self.is_shut = True
