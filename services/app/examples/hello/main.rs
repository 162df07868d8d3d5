//! Greets whoever calls, says so on a topic, and keeps each greeting in the mesh.

use macula_app::{Access, App, CallError, Code, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = App::connect().await?;
    println!("{} on {}", app.name(), app.node());
    let greeted = app.topic("hello/greeted", Access::AnyNode).await?;
    let here = app.clone();
    app.serve("hello/greet_v1", Access::AnyNode, move |call| {
        let (app, greeted) = (here.clone(), greeted.clone());
        async move {
            let failed = |e: Error| CallError::new(Code::INTERNAL, e.to_string());
            let name = String::from_utf8(call.message)
                .map_err(|_| CallError::new(Code::BAD_ARGUMENT, "a name is text"))?;
            let greeting = format!("Hello, {name}! Greetings to {}.", call.caller);
            let mcid = app.put_bytes("", greeting.as_bytes()).await.map_err(failed)?;
            greeted.publish(name.as_bytes()).await.map_err(failed)?;
            Ok(format!("{greeting} {mcid}").into_bytes())
        }
    })
    .await?;
    app.ready();
    std::future::pending().await
}
